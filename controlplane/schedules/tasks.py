"""Celery tasks of the schedules. Importing this module also starts the book of last runs."""

from __future__ import annotations

from celery import shared_task

from . import bookkeeping  # noqa: F401  (its signal handlers run in every process that runs tasks)
from .heartbeat import beat_once


@shared_task(name="controlplane.schedules.heartbeat", soft_time_limit=20, time_limit=30, acks_late=False)
def heartbeat() -> None:
    """Not acknowledged late: a heartbeat delivered again would tell of a time that is past."""
    beat_once()
