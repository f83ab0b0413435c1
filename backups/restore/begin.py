"""How a restore begins: its journal, also where an earlier one was lost, and what opens its set."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from backups import keys
from backups.errors import NoIdentity, RestoreFailed
from backups.keys import Identity
from backups.killpoints import step_reached
from backups.models import RestoreRecord

from . import journal as journals
from .journal import Journal, SetState, StepState
from .parts import describe_target, origin_of, part_state

log = structlog.get_logger(__name__)

#: While the row says so, nothing but the journal itself has been written.
NOTHING_DONE = ("queued", "preflight")


def journal_of(row: RestoreRecord) -> Journal | None:
    """The restore's journal on this machine. One that cannot be read is set aside: it counts as lost."""
    try:
        return journals.load(row.name)
    except RestoreFailed as error:
        log.error("restore_journal_set_aside", restore=row.name, error=str(error))
        journals.set_aside(row.name)
        return None


def was_begun_here(row: RestoreRecord) -> bool:
    """Whether it was begun on this machine, so that its journal ought to be here. Another's is not ours to end."""
    begun_on = row.steps[0].get("detail", "") if row.steps else ""
    if begun_on != socket.gethostname():
        log.warning("restore_journal_elsewhere", restore=row.name, begun_on=begun_on)
    return bool(begun_on == socket.gethostname())


def new_journal(row: RestoreRecord, now: datetime) -> Journal:
    """The journal as the restore begins. One that was lost in the middle leaves nothing to go by: it ends as failed."""
    record = row.record
    artifacts = {artifact.name: artifact for artifact in record.artifacts.select_related("source")}
    journal = Journal(
        name=row.name,
        mode="online",
        created_at=now.isoformat(),
        host=socket.gethostname(),
        requested_by=row.requested_by,
        reason=row.reason,
        options=dict(row.options),
        set=SetState(record.name, record.prefix, record.manifest_sha256, describe_target(record.target), record.pk),
        parts=[
            part_state(
                origin_of(artifacts[name]), position=position, plain_bytes=artifacts[name].plain_bytes, restore=row.name
            )
            for position, name in enumerate(row.artifacts)
            if name in artifacts
        ],
        steps=[StepState("begun", "", "done", now.isoformat(), now.isoformat(), socket.gethostname())],
        row_id=row.pk,
    )
    if row.state not in NOTHING_DONE:
        safety = f" The safety backup is {row.safety_record.name}." if row.safety_record is not None else ""
        journal.going, journal.state, journal.parts = "back", "rolling_back", []
        journal.failure = (
            f"Its journal {journal.path} is gone, so nobody can say what was swapped and stopped: compare "
            f"{', '.join(row.artifacts)} by hand and start the services.{safety}"
        )
        journal.tries["journal_lost"] = 1
    journal.save()
    step_reached("restore_begun")
    return journal


def identity_of(journal: Journal) -> Callable[[], Identity]:
    """What opens the set: the file that was named for this restore (by somebody at a terminal, and it may be on a
    stick that is gone when another worker carries on), else this process's drill identity.
    """
    file = journal.identity_file

    def find() -> Identity:
        try:
            return keys.identity_from_file(Path(file))
        except NoIdentity:
            try:
                return keys.drill_identity()
            except NoIdentity:
                pass
            raise

    return find if file else keys.drill_identity
