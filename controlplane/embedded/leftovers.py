"""What an earlier run left behind after a SIGKILL: found by its marks, verified, and killed before a new start.

A mark is ``run/children/<name>.json``, written when the child starts and removed when its session is
empty. It holds the child's pid (also the number of its session), its start time and the boot: a pid
alone may long belong to somebody else.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from . import processes

#: An orphan may still be on its way out (it gets SIGTERM when the supervisor dies): Redis saves what it holds.
GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Mark:
    """Names one child of one run."""

    pid: int
    started: str
    boot: str


def write_mark(folder: Path, name: str, pid: int) -> None:
    """Leave the mark of a child that was just started; nothing if it is gone already."""
    process = processes.find(pid)
    if process is not None:
        mark = Mark(pid, process.started, processes.boot_id())
        temporary = folder / f".{name}.tmp"
        temporary.write_text(json.dumps(asdict(mark)), encoding="utf-8")
        temporary.replace(folder / f"{name}.json")


def remove_mark(folder: Path, name: str) -> None:
    (folder / f"{name}.json").unlink(missing_ok=True)


def read_mark(path: Path) -> Mark | None:
    """The mark in the file, or None if it is not one (a power cut may leave half a file)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Mark(int(data["pid"]), str(data["started"]), str(data["boot"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def members_of(mark: Mark) -> list[processes.Process]:
    """The processes that are left of this child; empty if its pid belongs to somebody else by now.

    While any process of a session lives, the kernel gives its number to no new process. So a
    process with the mark's pid and another start time proves that nothing of the session is left,
    and no process with that pid proves that its members, if any, are ours.
    """
    if mark.boot != processes.boot_id():
        return []
    leader = processes.find(mark.pid)
    if leader is not None and leader.started != mark.started:
        return []
    return processes.session_members(mark.pid)


def clean_up(folder: Path, grace_seconds: float = GRACE_SECONDS) -> list[str]:
    """End every child that an earlier run left; returns their names. Removes all marks.

    Leaders are asked first (SIGTERM) and given ``grace_seconds`` together; then each session is killed.
    """
    marks = {path.stem: mark for path in sorted(folder.glob("*.json")) if (mark := read_mark(path)) is not None}
    left = {name: mark for name, mark in marks.items() if members_of(mark)}
    for mark in left.values():
        with suppress(ProcessLookupError):
            os.kill(mark.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and any(members_of(mark) for mark in left.values()):
        time.sleep(0.05)
    for mark in left.values():
        if members_of(mark):
            processes.kill_session(mark.pid)
    for path in folder.glob("*.json"):
        path.unlink(missing_ok=True)
    return sorted(left)
