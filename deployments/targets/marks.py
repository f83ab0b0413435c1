"""What a mark says of a local instance, held against the processes that there really are.

A mark names two processes by number, start time and boot: the keeper, which leads a session, and the command. While
any process of a session lives, the kernel gives its number to no new one. So a stranger with the keeper's number
proves that nothing of the session is left, and no process with that number proves that its members are ours.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from controlplane.monitoring.processes import lives, start_of

from .base import Seen
from .keeper import memory_of


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Names this boot of the machine: numbers and start times of processes begin anew with each."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


@dataclass(frozen=True, slots=True)
class Mark:
    """One start of an instance. ``sealed`` are its secrets, encrypted: what must not be read in its log."""

    service: str
    release: str
    slot: int
    name: str
    token: str
    boot: str
    host: str
    port: int
    generation: int
    starts: int
    started_at: datetime
    keeper: tuple[int, int]
    child: tuple[int, int]
    sealed: str = field(default="", repr=False)
    ended: bool = False
    exit_code: int | None = None
    oom_killed: bool = False

    @property
    def is_of_this_boot(self) -> bool:
        return self.boot == boot_id()

    @property
    def keeper_lives(self) -> bool:
        return self.is_of_this_boot and lives(*self.keeper)

    @property
    def child_lives(self) -> bool:
        return self.is_of_this_boot and lives(*self.child)

    @property
    def runs(self) -> bool:
        """The command does, or its keeper is still noting how it ended."""
        return not self.ended and (self.child_lives or self.keeper_lives)

    def members(self) -> list[int]:
        """Every living process of the instance, its keeper apart; empty where its numbers may be somebody else's."""
        number, started = self.keeper
        if not self.is_of_this_boot or start_of(number) not in (None, started):
            return []
        return [pid for pid in psutil.pids() if pid != number and _session(pid) == number and start_of(pid)]

    def seen(self) -> Seen:
        runs = self.runs
        return Seen(
            service=self.service,
            release=self.release,
            slot=self.slot,
            name=self.name,
            running=runs,
            host=self.host,
            port=self.port,
            handle={"pid": self.child[0], "started": self.child[1], "boot": self.boot, "token": self.token},
            started_at=self.started_at,
            exit_code=None if runs else self.exit_code,
            oom_killed=self.oom_killed and not runs,
            memory_bytes=(memory_of(self.members(), exact=True) or None) if runs else None,
        )

    def ask_to_end(self, number: int) -> None:
        """Through the keeper, which passes it on once; to the command itself where the keeper was killed."""
        if self.keeper_lives:
            with suppress(ProcessLookupError):
                os.kill(self.keeper[0], signal.SIGTERM)
        elif self.child_lives:
            with suppress(ProcessLookupError):
                os.kill(self.child[0], number)

    def kill(self) -> None:
        """SIGKILL to all of it. The keeper stays to note the end, unless the command is dead and it still has not."""
        stuck = self.keeper_lives and not self.child_lives
        for _ in range(5):  # one may fork between the look and the kill
            members = self.members()
            for pid in members:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not members:
                break
        if stuck and self.keeper_lives:
            with suppress(ProcessLookupError):
                os.kill(self.keeper[0], signal.SIGKILL)


def read_mark(path: Path) -> Mark | None:
    """The mark in the file; None if there is none, or what is there is no mark."""
    try:
        data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Mark(
            service=str(data["service"]),
            release=str(data["release"]),
            slot=int(data["slot"]),
            name=str(data["name"]),
            token=str(data["token"]),
            boot=str(data["boot"]),
            host=str(data["host"]),
            port=int(data["port"]),
            generation=int(data["generation"]),
            starts=int(data["starts"]),
            sealed=str(data["sealed"]),
            started_at=datetime.fromisoformat(data["started_at"]),
            keeper=_process(data["keeper"]),
            child=_process(data["child"]),
            ended="ended_at" in data,
            exit_code=data.get("exit_code"),
            oom_killed=bool(data.get("oom_killed")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _process(data: Mapping[str, Any]) -> tuple[int, int]:
    return int(data["pid"]), int(data["started"] or 0)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
