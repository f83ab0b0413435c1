"""Processes of this machine, by session: each child of the stack leads a session of its own.

A session outlives its leader (granian's workers live on and share the port when their main process
is killed), so what is stopped or killed here is always the whole session.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ON_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Process:
    """A living process. ``started`` never changes over its life, so pid and started name it for good."""

    pid: int
    session: int
    started: str
    is_zombie: bool


def _read_linux(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # proc_pid_stat(5); the name in parentheses may hold anything. Fields count from the one after it:
    # 3 state, 6 session, 22 start time in ticks since boot.
    fields = text.rpartition(")")[2].split()
    return Process(pid, session=int(fields[3]), started=fields[19], is_zombie=fields[0] in "ZX")


def _read_elsewhere(pid: int) -> Process | None:
    try:
        process = psutil.Process(pid)
        return Process(
            pid,
            session=os.getsid(pid),
            started=f"{process.create_time():.2f}",
            is_zombie=process.status() == psutil.STATUS_ZOMBIE,
        )
    except (psutil.Error, OSError):
        return None


def find(pid: int) -> Process | None:
    """The process ``pid``, or None if there is none."""
    return _read_linux(pid) if ON_LINUX else _read_elsewhere(pid)


def session_members(session: int) -> list[Process]:
    """All processes of the session that still run; a zombie does not."""
    found = (find(pid) for pid in psutil.pids())
    return [process for process in found if process and process.session == session and not process.is_zombie]


def kill_session(session: int) -> list[Process]:
    """SIGKILL every process of the session; returns those it met.

    Looks again after each round, because a process may have forked between the look and the kill.
    """
    met: dict[int, Process] = {}
    for _round in range(5):
        members = session_members(session)
        if not members:
            break
        for member in members:
            met[member.pid] = member
            with suppress(ProcessLookupError, PermissionError):
                os.kill(member.pid, signal.SIGKILL)
    return list(met.values())


def boot_id() -> str:
    """Names this boot of the machine: pids and start times begin anew with each."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def dies_with_parent() -> Callable[[], None] | None:
    """What a child runs between fork and exec to get SIGTERM when the supervisor dies; None where that is unknown.

    The library is loaded here, before the fork: a child of fork must do as little as possible.
    """
    if not ON_LINUX:
        return None
    libc = ctypes.CDLL(None)
    supervisor = os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it died before the call above could be heard
            os._exit(0)

    return in_child


def listener_on(port: int) -> str:
    """Who listens on the TCP port, as ``"nginx (pid 812)"``; empty if this user may not know."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return ""
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return ""
            with suppress(psutil.Error):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            return f"pid {connection.pid}"
    return ""
