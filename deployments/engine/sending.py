"""Asking a worker for a tick. A message is only a number; losing it costs two seconds, getting it twice nothing."""

from __future__ import annotations

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)

TICK_TASK = "deployments.tick_service"
CLEAR_TASK = "deployments.clear_checkouts"
QUEUE = "engine"
EXPIRES_SECONDS = 10


def send_tick(service_pk: int) -> None:
    """Once the transaction is committed. Without a broker the next tick of beat does it."""
    transaction.on_commit(lambda: _send(service_pk))


def send_now(service_pk: int) -> None:
    """At once, for whoever has nothing to commit."""
    _send(service_pk)


def send_clear(service_pk: int) -> None:
    """Deleting may take long, so it is no tick's work. Lost, it is done after the next deployment."""
    _send(service_pk, task=CLEAR_TASK, queue="work", expires=3600)


def _send(service_pk: int, *, task: str = TICK_TASK, queue: str = QUEUE, expires: int = EXPIRES_SECONDS) -> None:
    try:
        current_app.send_task(task, args=[service_pk], queue=queue, expires=expires, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("task_not_sent", task=task, service=service_pk, error=type(error).__name__)
