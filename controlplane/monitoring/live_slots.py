"""How many requests are in flight, over all processes of a service, and right after any of them was killed.

One small file, one slot per process: who it is (process number and start time) and how many requests it works on.
A reader adds up the slots of the processes that still live, so that a killed one is forgotten at once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from . import processes

log = structlog.get_logger(__name__)

FILE_NAME = "slots.mmap"
#: Processes of one service. 24 bytes each.
MOST_SLOTS = 1024
_WIDTH = 3  # process number, start time, requests in flight
_BYTES = MOST_SLOTS * _WIDTH * 8


class Slots:
    """The counts of one service. Without a folder it counts this process alone. Thread-safe, fork-safe."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._pid = 0
        self._at = 0
        self._cells: memoryview[int] = memoryview(bytearray(_WIDTH * 8)).cast("q")

    def enter(self) -> int:
        """One request more; returns how many this process now works on."""
        if self._pid != os.getpid():
            self._claim()
        with self._lock:
            now = self._cells[self._at] + 1
            self._cells[self._at] = now
        return now

    def leave(self) -> None:
        """One request less."""
        if self._pid != os.getpid():
            return  # entered before a fork and left after it: that one is the parent's
        with self._lock:
            if self._cells[self._at] > 0:
                self._cells[self._at] -= 1

    def here(self) -> int:
        """Requests in flight in this process."""
        return self._cells[self._at] if self._pid == os.getpid() else 0

    def total(self) -> int:
        """Requests in flight in all living processes of the service."""
        if self._pid != os.getpid():
            self._claim()
        cells = self._cells
        if len(cells) == _WIDTH:
            return self.here()
        return sum(
            cells[at + 2]
            for at in range(0, len(cells), _WIDTH)
            if cells[at] and cells[at + 2] > 0 and processes.lives(cells[at], cells[at + 1])
        )

    def _claim(self) -> None:
        """Take a slot for this process: after the start, and after a fork."""
        with self._lock:
            pid, started = processes.me()
            if self._pid == pid:
                return
            self._cells, self._at = memoryview(bytearray(_WIDTH * 8)).cast("q"), 2
            if self._folder is not None:
                try:
                    self._share(self._folder, pid, started)
                except OSError as error:
                    log.error("slots_not_shared", error=str(error))
            self._pid = pid

    def _share(self, folder: Path, pid: int, started: int) -> None:
        with _locked(folder / FILE_NAME) as descriptor:
            if os.fstat(descriptor).st_size != _BYTES:
                os.ftruncate(descriptor, _BYTES)
            cells = memoryview(mmap.mmap(descriptor, _BYTES)).cast("q")
            for at in range(0, len(cells), _WIDTH):
                if not cells[at] or not processes.lives(cells[at], cells[at + 1]):
                    cells[at + 2] = 0
                    cells[at], cells[at + 1] = pid, started
                    self._cells, self._at = cells, at + 2
                    return
        log.error("slots_exhausted", most=MOST_SLOTS)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # the map keeps a copy of the descriptor, and with it the lock
        os.close(descriptor)


def _of_this_service() -> Slots:
    name = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Slots(Path(name) if name else None)


_slots = _of_this_service()
enter, leave, here, total = _slots.enter, _slots.leave, _slots.here, _slots.total


def _unlock_after_fork() -> None:
    # Another thread of the parent may have held it at that moment; in the child nobody would ever release it.
    _slots._lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_after_fork)
