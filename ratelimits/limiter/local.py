"""What a process enforces alone while the store is away: its share of each limit, in its own memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from ratelimits.window import Look, Ring, bucket_width, look

#: Callers remembered at most; the longest unseen is forgotten first. About 10 MB when full.
MOST_CALLERS = 10_000


class LocalWindows:
    """Sliding windows of this process alone. Thread-safe."""

    def __init__(self, most: int = MOST_CALLERS) -> None:
        self._rings: OrderedDict[str, Ring] = OrderedDict()
        self._lock = threading.Lock()
        self._most = most

    def decide(self, wanted: list[tuple[str, int, int]], *, now: int | None = None) -> list[Look]:
        """Look at (key, limit, window_seconds) triples and count the request in all of them if all fit.

        ``now`` in microseconds of a clock that does not go back.
        """
        at = time.monotonic_ns() // 1000 if now is None else now
        with self._lock:
            looks = [
                look(self._rings.get(key), limit=limit, width=bucket_width(window), now=at)
                for key, limit, window in wanted
            ]
            fits = all(seen.fits for seen in looks)
            for (key, _, _), seen in zip(wanted, looks, strict=True):
                self._rings[key] = seen.count() if fits else seen.ring
                self._rings.move_to_end(key)
            while len(self._rings) > self._most:
                self._rings.popitem(last=False)
        return looks


def share(limit: int, processes: int) -> int:
    """This process's part of a limit; at least one, so that nobody is locked out altogether."""
    return max(1, limit // processes)
