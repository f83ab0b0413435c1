"""How long the service runs: since its process group began, not since this worker did."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path

#: Where ``/proc`` has no answer: the moment this module was read, on the same clock.
_FALLBACK = time.clock_gettime(time.CLOCK_BOOTTIME)


def uptime_seconds() -> float:
    """Seconds since the service's first process began. A worker that was started again does not reset it."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - _started(os.getpid()))


@lru_cache(maxsize=4)
def _started(pid: int) -> float:
    """When the service began, in seconds after boot: the highest forebear in this process's group.

    The group's leader may be gone, and its number may be another process's by now; forebears are alive.
    """
    group, oldest, current = os.getpgid(pid), _FALLBACK, pid
    while current > 0:
        try:
            fields = Path(f"/proc/{current}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            break
        parent, own_group, started = int(fields[1]), int(fields[2]), int(fields[19])
        if own_group != group:
            break
        oldest, current = started / os.sysconf("SC_CLK_TCK"), parent
    return oldest
