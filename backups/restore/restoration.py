"""One restore at work: its journal, who is told, and what opens the set. Steps and the way back share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from backups.errors import RestoreFailed
from backups.keys import Identity
from backups.models import RestoreRecord
from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError

from .journal import Journal, PartState, StepState
from .options import Options
from .reading import SetReader
from .tracking import Tracker

log = structlog.get_logger(__name__)


class Restoration:
    """``identity`` is asked for when something is first decrypted, and raises NoIdentity."""

    def __init__(
        self,
        journal: Journal,
        tracker: Tracker,
        *,
        identity: Callable[[], Identity],
        owner: str,
        row: RestoreRecord | None = None,
        patience_seconds: float | None = None,
    ) -> None:
        self.journal, self.tracker, self.owner, self.row = journal, tracker, owner, row
        self.identity = identity
        self.options = Options.of(journal.options)
        self.patience_seconds = patience_seconds
        self._reader: SetReader | None = None

    @property
    def reader(self) -> SetReader:
        """The set; opened, and its manifest verified, once per process."""
        if self._reader is None:
            self._reader = SetReader.of(self.journal.set)
        return self._reader

    def save(self) -> None:
        """Write the journal, then tell. On the way back a journal that cannot be written (a full disk) stops nothing:
        every step of it may run again.
        """
        try:
            self.journal.save()
        except RestoreFailed as error:
            if self.journal.going == "forward":
                raise
            log.error("restore_journal_not_written", restore=self.journal.name, error=str(error))
        self.tracker.show(self.journal)

    @contextmanager
    def noted(self, step: str, part: str = "") -> Iterator[StepState]:
        """Note one step of one part: that it begins, and how it ended."""
        entry = self.journal.begin(step, part, clock.now())
        self.save()
        try:
            yield entry
        except BaseException as error:
            entry.status, entry.finished_at = "failed", clock.now().isoformat()
            entry.detail = describe(error)
            raise
        entry.status, entry.finished_at = "done", clock.now().isoformat()
        self.save()

    def each(self, step: str) -> Iterator[PartState]:
        """The parts for which this step has not been done, each marked done when the caller comes back for the next."""
        for part in self.journal.parts:
            mark = f"{step}:{part.name}"
            if mark in self.journal.done:
                continue
            self.tracker.check()
            yield part
            self.journal.done.append(mark)
            self.save()

    def reached(self, entry: StepState, part: PartState) -> Callable[[int], None]:
        """Progress of a part that is being read: shown every second, with a look whether to go on."""
        last = float("-inf")

        def note(read_bytes: int) -> None:
            nonlocal last
            self.tracker.check()
            if clock.monotonic() - last >= 1.0:
                last = clock.monotonic()
                entry.detail = f"{read_bytes} of {part.plain_bytes} bytes"
                self.tracker.show(self.journal)

        return note


def describe(error: BaseException) -> str:
    """What happened, in words for people; an error that is not ours is named by its type."""
    if isinstance(error, ZantaraError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "It was interrupted."
    return f"{type(error).__name__}: {error}"
