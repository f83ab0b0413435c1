"""Stage plans: the shares of traffic that a new release gets, one after the other. Pure.

Shares are whole permille of the service's requests; 10 % is 100. A plan rises strictly and ends at 1000.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import BadPlan

FULL = 1000
LONGEST_BAKE_SECONDS = 7 * 86400


@dataclass(frozen=True, slots=True)
class Stage:
    """``permille`` of the traffic, watched for ``bake_seconds`` before the next stage."""

    permille: int
    bake_seconds: int

    @property
    def percent(self) -> str:
        """For people: ``10 %``, ``0.5 %``."""
        return f"{self.permille / 10:g} %"

    def to_json(self) -> dict[str, int]:
        return {"permille": self.permille, "bake_seconds": self.bake_seconds}

    @classmethod
    def from_json(cls, data: Any) -> Stage:
        return cls(int(data["permille"]), int(data["bake_seconds"]))


#: The seed's: 10 % for five minutes, 50 % for ten, then all.
SEED: tuple[Stage, ...] = (Stage(100, 300), Stage(500, 600), Stage(FULL, 0))
#: What a deployment follows that is not gradual.
AT_ONCE: tuple[Stage, ...] = (Stage(FULL, 0),)


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise BadPlan, with what to do, for a plan that no rollout can follow."""
    if not stages:
        raise BadPlan("The plan has no stage.", remedy="Add one of 100 %.")
    for stage in stages:
        if not 1 <= stage.permille <= FULL:
            raise BadPlan(f"A stage of {stage.percent} is not possible.", remedy="Use 0.1 % to 100 %.")
        if not 0 <= stage.bake_seconds <= LONGEST_BAKE_SECONDS:
            raise BadPlan(
                f"The stage of {stage.percent} is watched for {stage.bake_seconds} s.", remedy="Use 0 s to 7 days."
            )
    for before, after in itertools.pairwise(stages):
        if after.permille <= before.permille:
            raise BadPlan(
                f"The stage of {after.percent} comes after {before.percent}: the shares do not rise.",
                remedy="Put the stages in rising order, each share once.",
            )
    if stages[-1].permille != FULL:
        raise BadPlan(f"The last stage is {stages[-1].percent}.", remedy="End the plan with a stage of 100 %.")


def from_json(data: Iterable[Any]) -> tuple[Stage, ...]:
    """The frozen plan of a deployment."""
    return tuple(Stage.from_json(item) for item in data)
