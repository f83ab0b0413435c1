"""What the engine asks of a target, whatever its kind: start, find, stop, and read what instances said.

Nothing here waits. ``ensure`` begins a start and returns; ``stop`` begins a stop and returns; what came of it is
seen by ``find`` in a later tick. Every call may be made twice, and by another process than the one that began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """All that a target needs to start one instance. ``name`` is unique on the machine, and the same whoever asks.

    ``settings`` are the service's for this kind of target. ``checkout`` is the release's directory (process), ``image``
    its image (docker). ``generation`` is the fence: an instance of a higher one is never replaced by a lower one.
    """

    service: str
    release: str
    slot: int
    name: str
    settings: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)
    secret_environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    checkout: Path | None = None
    image: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """An instance as the target sees it now. ``handle`` is what finds it again (pid and start time, container id).

    ``running`` False with an ``exit_code`` or ``oom_killed``: it ended by itself or was killed.
    """

    service: str
    release: str
    slot: int
    name: str
    running: bool
    host: str = ""
    port: int | None = None
    handle: Mapping[str, Any] = field(default_factory=dict)
    started_at: datetime | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    memory_bytes: int | None = None


class Target(Protocol):
    """One way to run instances."""

    @property
    def kind(self) -> str: ...

    @property
    def label(self) -> str:
        """The kind, for people."""
        ...

    def check_settings(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings with their defaults; Refused, with what to do, for unknown or impossible ones."""
        ...

    def check(self, spec: InstanceSpec) -> None:
        """Raise CannotStart where it is sure that this could not start (no such program, image, directory)."""
        ...

    def ensure(self, spec: InstanceSpec) -> Seen:
        """Make it run, or find that it does (an ended one is started again). TargetUnavailable, CannotStart."""
        ...

    def find(self, service: str, settings: Mapping[str, Any]) -> Sequence[Seen]:
        """Every instance of the service, running or ended, from what really is there; TargetUnavailable."""
        ...

    def stop(self, seen: Seen, settings: Mapping[str, Any], *, grace_seconds: float, asked_at: datetime | None) -> None:
        """Ask it to end (``asked_at`` None: for the first time), kill it once ``grace_seconds`` have passed since."""
        ...

    def forget(self, seen: Seen, settings: Mapping[str, Any]) -> None:
        """Remove what is left of one that has ended (its mark, its container). Its log is kept."""
        ...

    def log_tail(self, seen: Seen, settings: Mapping[str, Any], *, most_bytes: int = 16384) -> str:
        """The end of what it said, secrets masked; empty where there is nothing."""
        ...
