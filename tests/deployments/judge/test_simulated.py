"""Whole rollouts with fixed seeds: how often a good release is taken back, and how soon a bad one."""

from __future__ import annotations

import random
import statistics

import pytest

from deployments.judge.memory import Memory, fold
from deployments.judge.types import Counts, JudgePolicy, Sample
from deployments.judge.verdict import ERRORS_PART
from tests.deployments.judge.ticking import judge_all, poisson, sample

POLICY = JudgePolicy()


def rollout(
    draw: random.Random, *, rate: float, old: float, new: float, ticks: int, permille: int, storms: bool = False
) -> list[Sample]:
    seen, storm = [], 0.0
    for i in range(ticks):
        if storms and i % 30 == 0:
            storm = draw.choice([0.0, 0.0, 0.05, 0.3])
        counts = []
        for share, bad in ((permille / 1000, new), (1 - permille / 1000, old)):
            requests = poisson(draw, rate * 2 * share)
            counts.append(Counts(requests, min(requests, poisson(draw, requests * (bad + storm)))))
        seen.append(sample(i, *counts, permille=permille))
    return seen


def taken_back(samples: list[Sample]) -> int | None:
    """The seconds until the judge fails it: its memory and bounds, without the sentences."""
    memory = Memory()
    for i, each in enumerate(samples):
        memory = fold(memory, each, margin=POLICY.margin)
        if memory.errors.e >= 1 / (POLICY.alpha * ERRORS_PART) or memory.budget.used > POLICY.error_budget:
            return 2 * (i + 1)
    return None


def test_of_good_releases_none_is_taken_back_not_even_in_storms() -> None:
    draw = random.Random(20261127)
    for n in range(40):
        rate, share, permille = draw.choice([5, 50]), draw.choice([0.001, 0.01]), draw.choice([100, 500])
        samples = rollout(draw, rate=rate, old=share, new=share, ticks=90, permille=permille, storms=n % 2 == 0)
        assert taken_back(samples) is None, (n, rate, share, permille)


def test_five_per_cent_of_errors_are_seen_within_the_promised_time() -> None:
    draw = random.Random(5)
    times = sorted(
        taken_back(rollout(draw, rate=50, old=0.001, new=0.05, ticks=60, permille=100)) or 999 for _ in range(40)
    )
    assert statistics.median(times) <= 20
    assert times[37] <= 45


@pytest.mark.parametrize("permille", [100, 500, 900, 1000])
def test_total_failure_is_seen_within_six_seconds(permille: int) -> None:
    draw = random.Random(permille)
    times = [
        taken_back(rollout(draw, rate=50, old=0.001, new=1.0, ticks=5, permille=permille)) or 999 for _ in range(20)
    ]
    assert max(times) <= 4


def test_the_whole_judge_says_the_same_as_its_memory() -> None:
    samples = rollout(random.Random(1), rate=50, old=0.001, new=0.05, ticks=60, permille=100)
    seconds = taken_back(samples)
    assert seconds is not None
    outcomes = [verdict.outcome for verdict in judge_all(samples)[1]]
    assert outcomes.index("fail") == seconds // 2 - 1
