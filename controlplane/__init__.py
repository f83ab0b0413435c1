"""The Zantara control plane: the project package.

Importing it has no side effects: a service that only borrows the identity or
the rate-limit middleware imports nothing of Celery, of the admin or of a database.
"""

__version__ = "0.1.0"
