"""The local instances of deployed services on this stack's data directory: they are no children, and end with it.

Each has a keeper that outlives whoever started it, so that a worker may die. A stack that goes down takes them along,
and one that starts ends what an earlier run has left: the addresses that they were told may not hold any more.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from deployments.targets.marks import Mark, read_mark

#: A server of ours ends its requests within this time; then it is killed. The stack as a whole goes down in ten.
GRACE_SECONDS = 2.5
_KILLED_SECONDS = 1.0


def running(data_dir: Path) -> dict[Path, Mark]:
    """The marks of instances that run, by their files."""
    found = {path: read_mark(path) for path in sorted((data_dir / "deployments").glob("*/instances/*.json"))}
    return {path: mark for path, mark in found.items() if mark is not None and mark.runs}


def stop_all(data_dir: Path, *, hurry: Callable[[], bool] = lambda: False) -> list[str]:
    """Ask them all to end, kill what does not; their names. ``hurry`` true: at once.

    Their marks go too: that they ended here says nothing against them.
    """
    marks = running(data_dir)
    for mark in marks.values():
        mark.ask_to_end(signal.SIGTERM)
    _wait(marks, GRACE_SECONDS, hurry)
    for mark in _left(marks):
        mark.kill()
    _wait(marks, _KILLED_SECONDS, lambda: False)
    for path in (data_dir / "deployments").glob("*/instances/*.json"):
        path.unlink(missing_ok=True)
    return [mark.name for mark in marks.values()]


def _left(marks: dict[Path, Mark]) -> list[Mark]:
    """Read anew: the keeper notes the end in the file."""
    return [now for path in marks if (now := read_mark(path)) is not None and now.runs]


def _wait(marks: dict[Path, Mark], seconds: float, hurry: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while _left(marks) and time.monotonic() < deadline and not hurry():
        time.sleep(0.05)
