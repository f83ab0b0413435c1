"""Putting a run on its queue. A message is only a number; losing it costs a minute, getting it twice nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from backups.models import BackupRecord
from controlplane.kernel import clock

log = structlog.get_logger(__name__)

RUN_TASK, DELETE_TASK = "backups.run_backup", "backups.delete_set"
#: A message that nobody took is sent again after this time, and is worth nothing after a little more.
RESEND = timedelta(minutes=5)
_EXPIRES_SECONDS = 900
_SENT = "sent_at"


def send_run(record: BackupRecord, *, now: datetime | None = None) -> None:
    """Once the transaction is committed. Without a broker the row waits for the next tick."""
    pk, at = record.pk, now or clock.now()
    wait = max(0.0, (record.due_at - at).total_seconds())
    transaction.on_commit(lambda: _send_and_note(pk, at, wait))


def _send_and_note(pk: int, at: datetime, wait_seconds: float) -> None:
    if send(RUN_TASK, pk, wait_seconds=wait_seconds):
        # Only of a row that still waits: a worker may be quicker than this line, and progress is his.
        BackupRecord.objects.filter(pk=pk, state="queued").update(progress={_SENT: at.isoformat()})


def send(task: str, pk: int, *, queue: str = "work", wait_seconds: float = 0) -> bool:
    """Whether the broker took the message. ``wait_seconds``: a worker takes it, but begins no sooner."""
    options: dict[str, Any] = {"countdown": wait_seconds} if wait_seconds else {}
    try:
        current_app.send_task(task, args=[pk], queue=queue, expires=_EXPIRES_SECONDS, retry=False, **options)
    except (OperationalError, OSError) as error:
        log.warning("message_not_sent", task=task, pk=pk, error=type(error).__name__)
        return False
    return True


def wants_sending(record: BackupRecord, now: datetime) -> bool:
    """Whether a due row that waits has no message that could still be taken."""
    sent = (record.progress or {}).get(_SENT)
    if not isinstance(sent, str):
        return True
    return now - max(datetime.fromisoformat(sent), record.due_at) >= RESEND
