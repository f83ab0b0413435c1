"""Asking for a restore, and asking that one stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from django.db import IntegrityError, transaction

from backups.engine import sending
from backups.engine.events import note as note_on_record
from backups.errors import CannotRestore
from backups.machines import RESTORE
from backups.models import BackupRecord, RestoreEvent, RestoreRecord
from controlplane.kernel import clock, transitions
from controlplane.kernel.errors import Refused

from . import journal as journals
from .options import Options, choose
from .parts import Origin, origin_of
from .preview import RESTORABLE

log = structlog.get_logger(__name__)

RUN_TASK, RESUME_TASK, QUEUE = "backups.run_restore", "backups.resume_restore", "proof"
_FIRST, _TRIES = "zantara-restore-", 100


def request_restore(
    record: BackupRecord,
    *,
    artifacts: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    requested_by: str,
    reason: str,
    now: datetime | None = None,
    send: bool = True,
) -> RestoreRecord:
    """Queue a restore of the named parts, or of those whose groups the options say.

    ``send`` False: the caller runs it himself with ``run_restore``. CannotRestore where nothing can be restored from
    this record, Refused for a missing reason or a nonsensical option. Everything else is looked at by its preflight.
    """
    now, chosen = now or clock.now(), Options.of(options)
    if not requested_by.strip() or not reason.strip():
        raise Refused("A restore replaces live data.", remedy="Say who wants it and why.")
    if record.state not in RESTORABLE:
        raise CannotRestore(
            f"{record.name} is {record.state}; its objects are not all there.",
            remedy="Choose a committed restore point.",
        )
    names = choose(_known(record), artifacts, chosen)
    columns: dict[str, Any] = {
        "record": record,
        "artifacts": names,
        "options": chosen.as_json(),
        "requested_by": requested_by.strip(),
        "reason": reason.strip(),
        "created_at": now,
        "due_at": now,
    }
    with transaction.atomic():
        row = _create(columns, now)
        note(row, f"requested: {row.reason}", actor=row.requested_by, now=now)
        note_on_record(record, f"restore {row.name} asked for: {row.reason}", actor=row.requested_by, now=now)
        if send:
            pk = row.pk
            transaction.on_commit(lambda: sending.send(RUN_TASK, pk, queue=QUEUE))
    log.info("restore_requested", restore=row.name, backup=record.name, parts=names)
    return row


def request_cancel(row: RestoreRecord, *, actor: str, now: datetime | None = None) -> str:
    """``cancelled``: it had not begun; ``requested``: it stops at once and puts everything back.

    Refused where it has ended or is being put back already.
    """
    now = now or clock.now()
    row.refresh_from_db()
    if row.state == "queued" and transitions.advance(
        row, "cancelled", machine=RESTORE, event=RestoreEvent, reason="cancelled before it began", actor=actor,
        now=now, changes={"cancel_requested_at": now, "finished_at": now},
    ):  # fmt: skip
        return "cancelled"
    if row.state in (*RESTORE.terminal_states, "rolling_back"):
        raise Refused(f"{row.name} is {row.state}: there is nothing to cancel.")
    row.cancel_requested_at = now
    row.save(update_fields=["cancel_requested_at"])
    note(row, "asked to stop", actor=actor, now=now)
    return "requested"


def note(row: RestoreRecord, reason: str, *, actor: str, now: datetime) -> None:
    """An event that moves nothing."""
    RestoreEvent(subject=row, at=now, from_state=row.state, to_state=row.state, reason=reason, actor=actor).save()


def _known(record: BackupRecord) -> list[Origin]:
    """The parts whose kinds this version has."""
    found = []
    for artifact in record.artifacts.select_related("source"):
        origin = origin_of(artifact)
        try:
            _ = origin.group
        except CannotRestore:
            continue
        found.append(origin)
    return found


def _create(columns: Mapping[str, Any], now: datetime) -> RestoreRecord:
    """Under the first free name of the day (UTC), which no journal of this machine has either."""
    day = f"{_FIRST}{now:%Y-%m-%d}"
    for number in range(1, _TRIES):
        name = day if number == 1 else f"{day}-{number}"
        if journals.path_of(name).exists() or RestoreRecord.objects.filter(name=name).exists():
            continue
        try:
            with transaction.atomic():
                row = RestoreRecord(name=name, **columns)
                row.save(force_insert=True)
        except IntegrityError:
            continue  # somebody took it just now
        return row
    raise Refused("There have been too many restores today.", remedy="Try again tomorrow, or look why they fail.")
