"""One decision while it is being made: what it was given, and what has been decided so far. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from deployments.machines import BEFORE_INSTANCES
from deployments.stages import FULL

from . import fleet
from .capacity import Exchange, canary, exchange
from .policy import RolloutPolicy
from .preview import why_skipped
from .types import (
    TICK_SECONDS,
    Applied,
    Decision,
    Effect,
    InstanceView,
    KillStep,
    Move,
    Notify,
    Observations,
    RolloutView,
)

#: Restarts after which an instance of a new release counts as crashing again and again.
CRASH_LOOP = 3

#: What a state notes in the memory for itself; forgotten as it is left.
_OF_A_STATE = ("waited", "blind", "unwell", "unconfirmed", "uncounted", "told", "coming")


@dataclass
class Turn:
    """Collects a decision. ``passed`` is the time credited to this tick; ``memory`` is written back as it is."""

    view: RolloutView
    seen: Observations
    now: datetime
    passed: float
    memory: dict[str, Any]
    moved: Move | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    due_seconds: float = TICK_SECONDS

    # --- saying what is to be ---------------------------------------------------------------------------------

    def move(
        self,
        to: str,
        reason: str,
        *,
        actor: str = "",
        record: Literal["", "promoted", "restored"] = "",
        keep: bool = False,
        **changes: Any,
    ) -> None:
        """Go to that state. ``keep``: what this state counted goes on counting (a pause and its end)."""
        self.moved = Move(to, reason, actor, record)
        if not keep:
            for name in _OF_A_STATE:
                self.memory.pop(name, None)
        self.changes |= changes
        self.effects = [effect for effect in self.effects if isinstance(effect, Notify | KillStep)]

    def count(self, name: str) -> float:
        """Add this tick to a state's own clock; what it has come to."""
        total = float(self.memory.get(name, 0.0)) + self.passed
        self.memory[name] = total
        return total

    def start_again(self, name: str) -> None:
        self.memory.pop(name, None)

    def decision(self) -> Decision:
        changes = dict(self.changes)
        if self.memory != dict(self.view.memory):
            changes["memory"] = self.memory
        return Decision(
            self.moved, changes, tuple(self.effects), tuple(self.applied), tuple(self.notes), self.due_seconds
        )

    # --- what is there -----------------------------------------------------------------------------------------

    @property
    def instances(self) -> tuple[InstanceView, ...]:
        return self.seen.instances or ()

    def of(self, release: str | None) -> list[InstanceView]:
        return [one for one in self.instances if one.release == release]

    def ready(self, release: str | None) -> int:
        return len(fleet.ready(self.instances, release or "", self.view.policy.min_ready_seconds)) if release else 0

    @property
    def before_instances(self) -> bool:
        """Whether nothing of the new release runs yet."""
        state = self.view.resume_to if self.view.state == "paused" else self.view.state
        return state in BEFORE_INSTANCES

    @property
    def stages_are_skipped(self) -> bool:
        """Where there is nobody to share the traffic with, or nothing that shares it, there is only 100 %."""
        return why_skipped(self.view.policy, has_old=self.view.from_release is not None) != ""

    def exchange(self, permille: int) -> Exchange:
        """What is wanted of the new release, which is to have so much."""
        view, policy = self.view, self.view.policy
        return exchange(
            policy.instances,
            policy.max_surge,
            permille,
            ready=self.ready(view.release),
            there=len([one for one in self.of(view.release) if not one.leaves]),
            others=[one for one in self.instances if one.release != view.release],
            effective=self.share(view.release),
        )

    def share(self, release: str) -> int:
        """What the edge really gives that release; without an edge, what was asked for."""
        if not self.view.policy.has_edge:
            new = self.view.requested_permille
            return new if release == self.view.release else FULL - new
        edge = self.seen.edge
        # What is not confirmed is not so: nothing is given up for it.
        return int(edge.permille.get(release, 0)) if edge is not None and edge.current else 0

    def confirmed(self, split: Mapping[str, int]) -> bool:
        """Whether the edge has taken this split, as it was read back."""
        if not self.view.policy.has_edge:
            return True
        edge = self.seen.edge
        if edge is None or not edge.current:
            return False
        return _given(edge.permille) == _given(split) and _given(self.seen.split) == _given(split)

    def split_for(self, permille: int) -> dict[str, int]:
        """The split in which the new release has so much, and the old one the rest."""
        if self.view.from_release is None:
            return {self.view.release: FULL} if permille else {}
        return _given({self.view.release: permille, self.view.from_release: FULL - permille})

    def wanted(self, new: int, old: int) -> None:
        """Let there be so many instances of both; nothing is touched while the target cannot be asked."""
        if self.seen.instances is None:
            return
        counts = {self.view.release: new}
        if self.view.from_release is not None:
            counts[self.view.from_release] = old
        self.effects += fleet.plan(counts, self.seen.instances, self.seen.edge, self.view.policy)

    def old_count(self) -> int:
        """Instances of the old release that are to stand by: all that are wanted, or those that are left where it
        could not be started again."""
        if self.view.from_release is None:
            return 0
        if self.seen.way_back:
            staying = [one for one in self.of(self.view.from_release) if not one.leaves]
            return min(len(staying), self.view.policy.instances)
        return self.view.policy.instances

    def canary_count(self) -> int:
        policy = self.view.policy
        return canary(policy.instances, self.view.stage.permille, policy.max_surge)

    # --- what is wrong ----------------------------------------------------------------------------------------

    def gates(self) -> str:
        """A hard reason against the new release, in a sentence; empty where there is none."""
        return hard_reason(self.of(self.view.release), self.view.policy)

    def trouble(self) -> str:
        """Why the new release is to be taken back now: a gate, or the judge's verdict."""
        if found := self.gates():
            return found
        verdict = self.seen.verdict
        return verdict.sentence if verdict is not None and verdict.outcome == "fail" else ""


def _given(permille: Mapping[str, int]) -> dict[str, int]:
    return {release: share for release, share in permille.items() if share}


def hard_reason(instances: Iterable[InstanceView], policy: RolloutPolicy) -> str:
    """What speaks against a release without any statistics: an instance of it cannot live."""
    for one in instances:
        if one.leaves:
            continue
        if one.failure:
            return f"{one.name} cannot be started: {one.failure}"
        if one.oom_killed:
            return f"{one.name} was killed because it needed more memory than it may have."
        if one.restarts >= CRASH_LOOP:
            return f"{one.name} ended by itself {one.restarts} times."
        if one.unready_seconds is not None and one.unready_seconds >= policy.readiness_deadline_seconds:
            return f"{one.name} has not been ready for {one.unready_seconds:.0f} s."
    return ""
