"""First run and diagnosis: the engines behind ``manage.py bootstrap`` and ``manage.py doctor``."""
