"""The API under ``/api/v1/``: what the admin does, for programs that hold a token."""
