"""Elapsed time, less what the machine withheld: a bound on waiting is not a bound on how busy the machine is."""

from __future__ import annotations

import threading
import time
from types import TracebackType

_NAP_SECONDS = 0.002


class Stopwatch:
    """A context manager. ``seconds``: the time since it was entered in which this process could have run.

    A thread sleeps again and again and adds up how much too late it wakes. On a machine at rest that is next to
    nothing, and the bound is the bound; on a busy one whoever is measured was held up for about as long.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self.stalled_seconds = 0.0
        self._ended: float | None = None

    def __enter__(self) -> Stopwatch:
        self._thread = threading.Thread(target=self._nap, name="stopwatch", daemon=True)
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.monotonic()
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return (self._ended or time.monotonic()) - self._begun - self.stalled_seconds

    def _nap(self) -> None:
        before = self._begun
        over = False
        while not over:
            over = self._over.wait(_NAP_SECONDS)
            now = time.monotonic()
            self.stalled_seconds += max(0.0, now - before - 2 * _NAP_SECONDS)
            before = now
