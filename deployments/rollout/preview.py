"""The stages that a deployment would really go through, before anything is asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deployments.stages import AT_ONCE, FULL, Stage

from .capacity import canary, rolls
from .policy import RolloutPolicy

#: Why there is only 100 %: nobody who has the rest, nothing that divides the traffic, or nobody who is given any.
Skipped = Literal["", "first", "no edge", "no instances"]


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """``effective_permille``: what users would get; ``new`` and ``old``: instances of the two releases.

    ``exchanged``: the new release cannot stand beside the old one whole; instances are exchanged a few at a time.
    """

    stage: Stage
    effective_permille: int
    new: int
    old: int
    exchanged: bool


def why_skipped(policy: RolloutPolicy, *, has_old: bool) -> Skipped:
    """Why the stages of a plan are skipped; empty where they are not."""
    if not has_old:
        return "first"
    if not policy.has_edge:
        return "no edge"
    return "" if policy.instances else "no instances"


def planned_stages(stages: Sequence[Stage], policy: RolloutPolicy, *, has_old: bool) -> tuple[PlannedStage, ...]:
    """The stages as they would come."""
    if why_skipped(policy, has_old=has_old):
        stages = AT_ONCE
    wanted = policy.instances
    return tuple(
        PlannedStage(
            stage,
            effective_permille=stage.permille if wanted else 0,
            new=policy.instances
            if stage.permille >= FULL
            else canary(policy.instances, stage.permille, policy.max_surge),
            old=policy.instances if has_old else 0,
            exchanged=has_old and rolls(wanted, stage.permille, policy.max_surge),
        )
        for stage in stages
    )
