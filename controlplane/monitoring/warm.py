"""What the first requests of a process would else do while all others wait for them."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings

from . import pressure
from .health.minute import start_watching


def warm_up() -> None:
    """Import the views, take the first sample of memory and connections, and begin to watch the last minute.

    A server calls it once per process, before it takes requests: a flood that meets a cold process finds all of its
    threads waiting for one another, and nobody free to refuse.
    """
    import_module(settings.ROOT_URLCONF)
    pressure.current()
    start_watching()
