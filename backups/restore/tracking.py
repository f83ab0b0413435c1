"""What a restore tells the database while it works: moves of its row, its steps, and how it hears that it shall stop.

The journal decides, the row follows: what the database cannot take now is brought up to the journal later. A database
that is silent for longer than a lease turns the restore back; nothing that it fails to do hinders the way back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Protocol

import structlog
from django.db import DatabaseError, connection, transaction

from backups.engine.fence import Fence
from backups.errors import Cancelled, RestoreFailed
from backups.machines import RESTORE
from backups.models import RestoreEvent, RestoreRecord
from controlplane.kernel import clock, transitions
from controlplane.kernel.errors import LeaseLost
from controlplane.kernel.leases import RELEASED
from controlplane.notifications.api import notify

from .journal import Journal

log = structlog.get_logger(__name__)

#: The row's progress is written at most this often, and a cancellation heard.
PUBLISH_SECONDS = 1.0


class Tracker(Protocol):
    """Who is told."""

    def enter(self, journal: Journal) -> None:
        """The journal has entered a state; the row follows."""
        ...

    def show(self, journal: Journal) -> None:
        """Steps, figures, the safety backup."""
        ...

    def check(self) -> None:
        """LeaseLost where another worker has taken over, Cancelled where somebody wants it to stop. Cheap."""
        ...

    def finish(self, journal: Journal) -> None:
        """The journal has ended; people are told where it did not end well."""
        ...


class Silent:
    """For a restore whose row is gone: the journal alone carries it to its end."""

    def enter(self, journal: Journal) -> None:
        log.info("restore_goes_on_without_row", restore=journal.name, state=journal.state)

    def show(self, journal: Journal) -> None: ...

    def check(self) -> None: ...

    def finish(self, journal: Journal) -> None:
        with _forgiving(journal), transaction.atomic():
            _tell(journal)


class RowTracker:
    """Writes the row under its lease."""

    def __init__(self, row: RestoreRecord, fence: Fence, *, actor: str) -> None:
        self._row, self._fence, self._actor = row, fence, actor
        self._looked = float("-inf")

    def enter(self, journal: Journal) -> None:
        with _forgiving(journal):
            for state in _way(self._row.state, journal.state):
                self._move(state, journal.failure if state == "rolling_back" else "")

    def show(self, journal: Journal) -> None:
        with _forgiving(journal):
            self._fence.lease.guarded_update(**_columns(journal))

    def check(self) -> None:
        try:
            self._fence.confirm()
        except LeaseLost:
            if self._fence.is_lost:
                raise
            # Nobody else has it: no other machine has the journal, and on this one we hold it.
            raise RestoreFailed(
                "The control plane's database does not answer any more.", remedy="See that its server runs."
            ) from None
        if clock.monotonic() - self._looked < PUBLISH_SECONDS:
            return
        self._looked = clock.monotonic()
        with _forgiving(self._row):
            if RestoreRecord.objects.filter(pk=self._row.pk, cancel_requested_at__isnull=False).exists():
                raise Cancelled("Somebody asked this restore to stop.")

    def finish(self, journal: Journal) -> None:
        with _forgiving(journal), transaction.atomic():
            way = _way(self._row.state, journal.state)
            for state in way[:-1]:
                self._move(state, "")
            if way:
                last = {**_columns(journal), "finished_at": clock.now(), **RELEASED}
                self._move(way[-1], journal.failure, last)
            _tell(journal)

    def _move(self, state: str, reason: str, changes: dict[str, Any] | None = None) -> None:
        changes = dict(changes or {})
        if self._row.started_at is None:
            changes["started_at"] = clock.now()
        moved = transitions.advance(
            self._row, state, machine=RESTORE, event=RestoreEvent, reason=reason, actor=self._actor,
            changes=changes, lease=self._fence.lease,
        )  # fmt: skip
        if not moved:
            raise LeaseLost(f"{self._row.name} was moved to {self._row.state} by somebody else.")


@contextmanager
def _forgiving(restore: Journal | RestoreRecord) -> Iterator[None]:
    """The work goes before its bookkeeping."""
    try:
        yield
    except DatabaseError as error:
        log.warning("restore_row_not_written", restore=restore.name, error=type(error).__name__)
        with suppress(DatabaseError):
            connection.close()  # a broken one is not used again


def _way(here: str, there: str) -> list[str]:
    """The moves from one state to another, none where there is no way: the row may lag behind the journal."""
    paths = deque([[here]])
    seen = {here}
    while paths:
        path = paths.popleft()
        if path[-1] == there:
            return path[1:]
        for following in RESTORE.moves.get(path[-1], ()):
            if following not in seen:
                seen.add(following)
                paths.append([*path, following])
    return []


def _columns(journal: Journal) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "steps": [asdict(step) for step in journal.steps],
        "error": journal.failure,
        "score": journal.score,
    }
    if journal.safety is not None and journal.safety.record_id is not None:
        columns["safety_record_id"] = journal.safety.record_id
    return columns


def _tell(journal: Journal) -> None:
    """One message where a restore did not end well; a refusal has been told to whoever asked."""
    if journal.state not in ("rolled_back", "failed"):
        return
    whole = journal.state == "rolled_back"
    put_back = "Everything is as it was before." if whole else "It could not be put back whole."
    link = f"/admin/backups/restorerecord/{journal.row_id}/change/" if journal.row_id else ""
    notify(
        "restore_failed",
        key=f"restore_failed:{journal.name}",
        title=f"{journal.name} ({journal.set.record_name}) did not succeed",
        body=f"{put_back} {journal.failure}",
        severity="warning" if whole else "error",
        link=link,
    )
