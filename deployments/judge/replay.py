"""Judging a rollout again, from what its ticks saw: the same policy says the same, another one its own. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import words
from .types import JudgePolicy, Sample, Verdict
from .verdict import judge


@dataclass(frozen=True, slots=True)
class Tick:
    """The verdict that one sample would have led to."""

    at: datetime
    stage_index: int
    permille: int
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "stage_index": self.stage_index,
            "permille": self.permille,
            **self.verdict.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Replay:
    """``failed_at`` is the first moment of a failure. What came after it is judged on as it happened."""

    ticks: tuple[Tick, ...]
    failure: Tick | None
    sentence: str

    @property
    def failed_at(self) -> datetime | None:
        return self.failure.at if self.failure else None

    @property
    def last(self) -> Verdict | None:
        return self.ticks[-1].verdict if self.ticks else None

    def to_json(self) -> dict[str, Any]:
        return {
            "failed_at": self.failed_at.isoformat() if self.failed_at else None,
            "sentence": self.sentence,
            "ticks": [tick.to_json() for tick in self.ticks],
        }


def replay(samples: Iterable[Sample], policy: JudgePolicy, *, new: str = "", old: str = "") -> Replay:
    """Judge the samples, in the order in which they were taken, as if the rollout had had this policy."""
    state: dict[str, Any] = {}
    ticks: list[Tick] = []
    for sample in samples:
        state, verdict = judge(policy, state, sample, new=new, old=old)
        ticks.append(Tick(sample.at, sample.stage_index, sample.permille, verdict))
    failure = next((tick for tick in ticks if tick.verdict.outcome == "fail"), None)
    return Replay(tuple(ticks), failure, _sentence(ticks, failure))


def _sentence(ticks: list[Tick], failure: Tick | None) -> str:
    if not ticks:
        return "Nothing was observed of this rollout: there is nothing to judge."
    if failure is None:
        return f"It would not have failed. At the end: {ticks[-1].verdict.sentence}"
    after = (failure.at - ticks[0].at).total_seconds()
    return (
        f"It would have failed at {failure.at:%H:%M:%S} ({failure.at:%Z}), {words.count(after)} s after the first"
        f" observation, at {failure.permille / 10:g} %: {failure.verdict.sentence}"
    )
