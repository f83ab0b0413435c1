"""Samples by the dozen, and rollouts of them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.judge.types import Counts, JudgePolicy, Sample, Verdict
from deployments.judge.verdict import judge

BEGIN = datetime(2026, 11, 27, 2, 30, tzinfo=UTC)


def at(tick: int) -> datetime:
    return BEGIN + timedelta(seconds=2 * tick)


def sample(tick: int, new: Counts | None, old: Counts | None, **more: Any) -> Sample:
    """One tick at 10 % in the first stage, unless told otherwise."""
    return Sample(**{"at": at(tick), "stage_index": 0, "permille": 100, "new": new, "old": old, **more})


def judge_all(
    samples: Iterable[Sample], policy: JudgePolicy | None = None, state: dict[str, Any] | None = None
) -> tuple[dict[str, Any], list[Verdict]]:
    """Fold them one after the other, with the state through JSON each time, as the database keeps it."""
    state, verdicts = state or {}, []
    for each in samples:
        state, verdict = judge(policy or JudgePolicy(), json.loads(json.dumps(state)), each, new="43", old="42")
        verdicts.append(verdict)
    return state, verdicts


def poisson(draw: random.Random, mean: float) -> int:
    if mean > 60:
        return max(0, round(draw.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, draw.random()
    while product > limit:
        count, product = count + 1, product * draw.random()
    return count
