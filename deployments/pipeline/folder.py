"""The folder of a step: its files, its lock, and the marks of its processes. Without Django: the shepherd imports it.

Whoever holds the lock runs the step. The shepherd inherits it from the worker that began it, open and locked, and
keeps it for life: a step runs exactly as long as its lock is held, whatever has become of any worker.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

SPEC, OUTPUT, END = "spec.json", "output.log", "end.json"
HANDLE, COMMAND = "handle.json", "command.json"
LOCK, STOP, COMPLAINTS = "lock", "stop", "shepherd.log"

_TRIES, _PAUSE_SECONDS = 5, 0.01


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is none, or half of one (a power cut)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write the file whole or not at all, readable by this user only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(data, stream)
        stream.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def take_lock(folder: Path) -> int | None:
    """The locked descriptor, or None where the step runs. Closing it, and dying, gives the lock back."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < _TRIES - 1:  # somebody who only looked holds it for microseconds
                time.sleep(_PAUSE_SECONDS)
        else:
            return descriptor
    os.close(descriptor)
    return None


def is_held(folder: Path) -> bool:
    """Whether a shepherd, or a worker that just begins, holds the step."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def mark_of(pid: int) -> dict[str, Any]:
    """What names a process for good: pids come again, one with the same start time on the same boot does not."""
    return {"pid": pid, "started": _start_time(pid), "boot": boot_id()}


def is_alive(mark: Mapping[str, Any]) -> bool:
    """Whether the process with this mark still runs. One that has ended and was not reaped does not."""
    try:
        pid, started, boot = int(mark["pid"]), str(mark["started"]), str(mark["boot"])
    except (KeyError, TypeError, ValueError):
        return False
    if not started or boot != boot_id() or _start_time(pid) != started:
        return False
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def end_leftovers(folder: Path) -> int:
    """SIGKILL what a step without a shepherd left running; how many that were. Call it with the lock held.

    The kernel kills the command itself together with its shepherd; this is for what the command had started.
    """
    mark = read_json(folder / COMMAND)
    if not mark or mark.get("boot") != boot_id():
        return 0
    leader = _start_time(int(mark["pid"]))
    if leader and leader != mark["started"]:  # the number is somebody else's by now: nothing of that session is left
        return 0
    ended = 0
    for pid in psutil.pids():
        with suppress(OSError):
            if os.getsid(pid) == mark["pid"]:
                os.kill(pid, signal.SIGKILL)
                ended += 1
    return ended


def boot_id() -> str:
    """Names this boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _start_time(pid: int) -> str:
    """When the process began, as the kernel counts it; empty if there is no such process."""
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text.rpartition(")")[2].split()[19]  # proc_pid_stat(5): the 22nd field; a name may hold anything
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""
