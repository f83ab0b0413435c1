"""What a decision is made of, and what it says. Plain frozen data: the engine makes it of rows, targets and the edge.

Releases are named by their version; times that matter to a decision are given as seconds that have passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from deployments.judge.types import Verdict
from deployments.stages import Stage

from .policy import RolloutPolicy

#: A tick is due so often while a deployment is active.
TICK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A deployment's row. ``from_release`` is None for a first deployment; the names are those of the columns."""

    name: str
    state: str
    release: str
    from_release: str | None
    stages: tuple[Stage, ...]
    policy: RolloutPolicy
    trigger: str = "manual"
    skips_pipeline: bool = False
    forward_only: bool = False
    stage_index: int = 0
    stage_since: datetime | None = None
    observed_seconds: float = 0.0
    observed_at: datetime | None = None
    extensions: int = 0
    resume_to: str = ""
    pause_reason: str = ""
    requested_permille: int = 0
    error: str = ""
    started_at: datetime | None = None
    promoted_at: datetime | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last_stage(self) -> int:
        return len(self.stages) - 1

    @property
    def stage(self) -> Stage:
        return self.stages[min(self.stage_index, self.last_stage)]


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance, as the target and its own answers show it. None where the state it counts does not hold."""

    name: str
    release: str
    slot: int
    running: bool = True
    ready_seconds: float | None = None
    unready_seconds: float | None = None
    started_seconds: float | None = None
    draining_seconds: float | None = None
    stopping_seconds: float | None = None
    restarts: int = 0
    oom_killed: bool = False
    failure: str = ""

    @property
    def leaves(self) -> bool:
        return self.draining_seconds is not None or self.stopping_seconds is not None


@dataclass(frozen=True, slots=True)
class EdgeView:
    """``permille`` is what the proxy does; ``current``: it has taken the last state that it was given.
    ``active``: requests in flight of each release, absent where it cannot be told.
    """

    permille: Mapping[str, int] = field(default_factory=dict)
    current: bool = True
    active: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepView:
    """A planned step and its last run. ``todo``: never begun; ``gone``: begun, and neither running nor ended."""

    phase: str
    position: int
    name: str
    status: Literal["todo", "running", "gone", "passed", "failed", "warned", "unknown", "timed_out"] = "todo"
    attempt: int = 0
    blocks: bool = True
    unknown_blocks: bool = True
    summary: str = ""


@dataclass(frozen=True, slots=True)
class BackupView:
    """The backup before the deployment. ``level``: so far it is proven (None: not at all, or damaged)."""

    name: str
    state: str
    level: int | None = None
    proving: bool = False
    proof_failed: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class HealthView:
    """The health of the new release's instances. ``read``: all of them were really asked, and answered."""

    read: bool = False
    ok: bool = False
    score: int | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observations:
    """What one tick saw. ``instances`` None: the target did not answer; ``edge`` None: the proxy did not.

    ``counted``: the edge's counters were read, and follow those of the tick before. ``monotonic`` is of the machine
    that ``boot`` names. ``way_back``: why the old release could not be gone back to, ``source_gone``: why the
    new one could not be started without being fetched; empty where it could.
    """

    instances: tuple[InstanceView, ...] | None = ()
    edge: EdgeView | None = field(default_factory=EdgeView)
    split: Mapping[str, int] = field(default_factory=dict)
    counted: bool = False
    verdict: Verdict | None = None
    health: HealthView = field(default_factory=HealthView)
    steps: tuple[StepView, ...] = ()
    backup: BackupView | None = None
    line_stopped: str = ""
    other_active: str = ""
    current_release: str | None = None
    way_back: str = ""
    source_gone: str = ""
    boot: str = ""
    monotonic: float = 0.0


@dataclass(frozen=True, slots=True)
class CommandView:
    pk: int
    kind: str
    actor: str
    reason: str = ""


# --- what is decided ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ensure:
    """Let the release's instance of this slot run; ``again``: it ran before and has ended."""

    release: str
    slot: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """No new requests for it any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """It is wanted after all."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask it to end; said again by each tick until it has."""

    name: str


@dataclass(frozen=True, slots=True)
class Forget:
    """It has ended: remove what is left of it."""

    name: str


@dataclass(frozen=True, slots=True)
class SetSplit:
    """The share of each release, absolute. Empty: the service has no traffic to give."""

    permille: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RunStep:
    phase: str
    position: int
    attempt: int


@dataclass(frozen=True, slots=True)
class KillStep:
    phase: str
    position: int
    attempt: int


@dataclass(frozen=True, slots=True)
class RequestBackup:
    """Ask for the backup before the deployment."""


@dataclass(frozen=True, slots=True)
class RequestProof:
    """Ask that the backup be proven as far as the service demands."""

    level: int


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell people; the same matter twice is one message."""

    kind: str
    title: str
    body: str
    severity: Literal["info", "warning", "error"] = "error"


Effect = (
    Ensure | Drain | Undrain | Stop | Forget | SetSplit | RunStep | KillStep | RequestBackup | RequestProof | Notify
)


@dataclass(frozen=True, slots=True)
class Applied:
    """A command that this decision answers, and what became of it."""

    pk: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Move:
    """``record``: what the service's state must say in the same moment: this release serves now, or the old again."""

    to: str
    reason: str
    actor: str = ""
    record: Literal["", "promoted", "restored"] = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """``changes`` are columns of the deployment, written with the move; ``notes`` are events without a move.

    With a move, ``effects`` are only those that belong to it: the next decision, in the new state, says the rest.
    """

    move: Move | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    applied: tuple[Applied, ...] = ()
    notes: tuple[str, ...] = ()
    due_seconds: float = TICK_SECONDS
