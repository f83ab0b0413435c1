"""The safety backup: a real committed set of exactly the parts that are about to be replaced."""

from __future__ import annotations

import time

import structlog

from backups.engine.requests import request_backup, request_cancel
from backups.engine.run import run_backup
from backups.errors import RestoreFailed
from backups.models import BackupRecord
from controlplane.kernel.errors import Refused

from .journal import SetState
from .parts import describe_target
from .preview import safety_plan
from .restoration import Restoration

log = structlog.get_logger(__name__)

#: While another worker has taken the run over, it is looked at this often.
_PAUSE_SECONDS, _PATIENCE_SECONDS = 1.0, 300.0
_REMEDY = "Mend the source; if it is wholly gone and nothing can be captured, restore without a safety backup."


def take(restoration: Restoration) -> str:
    """Make it, or find the one that an earlier try of this step has committed; says what it is called.

    RestoreFailed where it does not come to be: nothing has been touched then.
    """
    journal = restoration.journal
    if journal.safety is not None:
        return journal.safety.record_name
    names = [part.name for part in journal.parts]
    record = _earlier(restoration) or _ask(restoration, names)
    journal.safety_asked_for = record.pk
    restoration.save()
    _run(restoration, record)
    if record.state != "committed":
        raise RestoreFailed(
            f"The safety backup {record.name} was not made ({record.state}). {record.error}".strip(), remedy=_REMEDY
        )
    if missing := sorted(set(names) - set(record.artifacts.values_list("name", flat=True))):
        raise RestoreFailed(f"The safety backup {record.name} lacks {', '.join(missing)}.", remedy=_REMEDY)
    journal.safety = SetState(
        record.name, record.prefix, record.manifest_sha256, describe_target(record.target), record.pk
    )
    restoration.save()
    return record.name


def _run(restoration: Restoration, record: BackupRecord) -> None:
    """One attempt, here. Where the store left open whether it took the set, the engine's tick finds out."""
    run_backup(record.pk, owner=restoration.owner)
    record.refresh_from_db()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while record.state == "running" and time.monotonic() < deadline:
        restoration.tracker.check()
        time.sleep(_PAUSE_SECONDS)
        record.refresh_from_db()
    if record.state in ("queued", "running"):
        _cancel(restoration, record)


def _cancel(restoration: Restoration, record: BackupRecord) -> None:
    try:
        request_cancel(record, actor=restoration.owner)
    except Refused:  # it ended just now
        log.info("safety_backup_ended_meanwhile", backup=record.name)
    record.refresh_from_db()


def _earlier(restoration: Restoration) -> BackupRecord | None:
    """What a worker that died had asked for: taken if it is whole; if not, it is cancelled and made anew."""
    pk = restoration.journal.safety_asked_for
    record = BackupRecord.objects.filter(pk=pk).first() if pk is not None else None
    if record is None or record.state == "committed":
        return record
    if record.state in ("queued", "running"):
        _cancel(restoration, record)
    return record if record.state == "committed" else None


def _ask(restoration: Restoration, names: list[str]) -> BackupRecord:
    row, journal = restoration.row, restoration.journal
    plan = safety_plan(row.record, names) if row is not None else None
    if plan is None:
        raise RestoreFailed("No plan has all of these parts as enabled sources.", remedy=_REMEDY)
    record = request_backup(
        plan,
        trigger=BackupRecord.Trigger.SAFETY,
        requested_by=journal.requested_by,
        reason=f"before {journal.name}",
        only_sources=names,
    )
    if record is None:  # only scheduled runs are answered so
        raise RestoreFailed("The safety backup was not begun.", remedy="Try again.")
    return record
