"""Which process is which: a process number alone comes back, together with its start time it does not."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import psutil

#: A killed process stays in the table until its parent asks for it; it does nothing any more.
_GONE = frozenset({b"Z", b"X", b"x"})
_ME: tuple[int, int] = (0, 0)


@lru_cache(maxsize=1)
def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def start_of(pid: int) -> int | None:
    """When the living process ``pid`` began (in ticks since boot, or microseconds where there is no /proc).

    None if there is no such process, or only what is left of a dead one.
    """
    if not _has_proc():
        return _start_without_proc(pid)
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The program's name, in brackets, may hold spaces and brackets of its own.
    fields = line[line.rindex(b")") + 2 :].split()
    return None if fields[0] in _GONE else int(fields[19])


def _start_without_proc(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 1e6)
    except psutil.Error:
        return None


def me() -> tuple[int, int]:
    """This process: its number and when it began. Right after a fork too."""
    global _ME  # noqa: PLW0603  (one process is one process)
    pid = os.getpid()
    if _ME[0] != pid:
        _ME = (pid, start_of(pid) or 0)
    return _ME


def lives(pid: int, started: int | None = None) -> bool:
    """Whether this very process still runs; without ``started`` whether any process has that number."""
    found = start_of(pid)
    return found is not None and (started is None or found == started)
