"""A step of the pipeline while it runs, and what its output came to.

A step is a detached process that outlives the worker which began it. Its folder holds all there is to know:
``output.log`` (secrets masked), ``spec.json``, ``end.json`` once it has ended. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["passed", "failed", "warned", "unknown", "timed_out"]


@dataclass(frozen=True, slots=True)
class StepSpec:
    """What is run: ``argv`` as it is, in ``cwd``, with ``environ`` added to a small one; killed after the time.

    ``secrets`` are values that must not be read in its output; a variable whose value holds one never reaches a disk.
    """

    name: str
    kind: str
    argv: tuple[str, ...]
    cwd: Path
    timeout_seconds: int
    environ: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may use of this machine: bytes of output that are kept, and bytes that must stay free on its disks.

    ``grace_seconds`` lie between asking it to end and killing it.
    """

    output_bytes: int = 20_000_000
    free_bytes: int = 1_000_000_000
    grace_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class StepSeen:
    """``gone``: neither running nor ended properly (the machine was restarted); it may be run once more.

    ``reason`` is a sentence where it did not end by itself: it took too long, was stopped, could not be started.
    """

    running: bool
    exit_code: int | None = None
    timed_out: bool = False
    gone: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    output_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What an ended step's output came to: an outcome, a sentence, and numbers."""

    outcome: Outcome
    summary: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


class StepKind(Protocol):
    """How a kind of step is run and read."""

    @property
    def name(self) -> str: ...

    @property
    def label(self) -> str: ...

    def argv(self, command: str) -> Sequence[str]:
        """The program and its arguments: the operator's command, else this kind's own. Refused if there is none."""
        ...

    def read(self, output: str, seen: StepSeen) -> Findings:
        """What came of it. Pure; ``output`` is its end, at most a few MB."""
        ...
