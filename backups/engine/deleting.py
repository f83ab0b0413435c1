"""Deleting one restore point: its objects, COMMIT first; confirmed gone; then the row becomes a tombstone.

It may stop anywhere and be begun again. One that fails is tried again after a while, and never forgotten.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from django.db import transaction

from backups.machines import RECORD
from backups.models import BackupEvent, BackupRecord
from backups.storage import open_target
from controlplane.kernel import clock, leases, transitions
from controlplane.kernel.errors import LeaseLost, Refused, ZantaraError
from controlplane.kernel.leases import RELEASED, Lease
from controlplane.kernel.logs import redact_text

from . import facts, sending
from .fence import Fence
from .steps import step_reached
from .undo import delete_below

log = structlog.get_logger(__name__)

_LEASE_SECONDS = 120.0
_FIRST_WAIT, _LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=6)


def begin(record: BackupRecord, *, reason: str, actor: str, now: datetime) -> bool:
    """From here on the set is going. Refused while something reads it."""
    with transaction.atomic():
        if user := facts.in_use([record]).get(record.pk):
            raise Refused(f"{record.name} is in use by {user}.", remedy="Wait until that is over, or cancel it.")
        moved = transitions.advance(
            record, "deleting", machine=RECORD, event=BackupEvent, reason=reason, actor=actor, now=now,
            changes={"due_at": now, "delete_attempts": 0, "delete_error": ""},
        )  # fmt: skip
    if moved:
        step_reached("delete_begun")
    return moved


def send(record: BackupRecord) -> None:
    """Have a worker carry it out soon; without a broker the hourly turn does."""
    transaction.on_commit(lambda: sending.send(sending.DELETE_TASK, record.pk))


def delete_set(pk: int, *, owner: str = "retention", now: datetime | None = None) -> int | None:
    """The bytes that were freed, or None: not due, another worker is at it, or the store would not."""
    now = now or clock.now()
    rows = BackupRecord.objects.filter(state="deleting", due_at__lte=now)
    lease = leases.acquire(rows, pk, owner=owner, ttl_seconds=_LEASE_SECONDS, now=now)
    if lease is None:
        return None
    record = BackupRecord.objects.select_related("target").get(pk=pk)
    try:
        with Fence(lease):
            delete_below(open_target(record.target), record.prefix)
            step_reached("objects_deleted")
            return _entomb(record, lease, now)
    except LeaseLost:
        return None
    except (ZantaraError, OSError) as error:
        _try_again_later(record, lease, error, now)
        return None


def _entomb(record: BackupRecord, lease: Lease, now: datetime) -> int:
    # What an earlier try deleted was freed as well: the row's size is the sum, not what this try found.
    freed = record.stored_bytes
    moved = transitions.advance(
        record, "deleted", machine=RECORD, event=BackupEvent, reason=f"{freed} bytes freed", actor=lease.owner, now=now,
        lease=lease,
        changes={
            "freed_bytes": freed, "delete_error": "", "expires_at": None, "keep_reasons": [],
            **RELEASED,
        },
    )  # fmt: skip
    step_reached("row_deleted")
    log.info("backup_deleted", backup=record.name, freed_bytes=freed)
    return freed if moved else 0


def _try_again_later(record: BackupRecord, lease: Lease, error: Exception, now: datetime) -> None:
    attempts = record.delete_attempts + 1
    wait = min(_FIRST_WAIT * 2 ** min(attempts - 1, 12), _LONGEST_WAIT)
    text = redact_text(str(error) or type(error).__name__)[:2000]
    try:
        lease.guarded_update(delete_attempts=attempts, delete_error=text, due_at=now + wait)
        lease.release()
    except LeaseLost:
        return
    log.warning("delete_failed", backup=record.name, attempts=attempts, why=text)
