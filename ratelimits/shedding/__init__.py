"""Refusing early what could not be served in time, so that the callers who matter most still are.

Everything here works in a foreign service without a database; only ``rows`` is the control plane's.
"""
