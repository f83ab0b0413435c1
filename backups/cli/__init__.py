"""What ``manage.py backup`` and ``manage.py restore`` do, one function for each word of theirs."""
