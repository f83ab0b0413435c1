"""Judging stored rollouts again."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from hypothesis import given, settings

from deployments.judge.replay import replay
from deployments.judge.types import Counts, JudgePolicy, Sample
from tests.deployments.judge.test_verdict import rollouts, samples_of
from tests.deployments.judge.ticking import BEGIN, judge_all, sample

SLIGHTLY_BAD = [sample(i, Counts(100, 1 if i % 3 else 2), Counts(900, 4)) for i in range(120)]


def stored(samples: list[Sample]) -> list[Sample]:
    """As they come back from the database."""
    return [Sample.from_json(json.loads(json.dumps(each.to_json()))) for each in samples]


@settings(max_examples=25)
@given(rollouts)
def test_a_replay_with_the_same_policy_says_what_was_said_live(rollout: list[Any]) -> None:
    samples = samples_of(rollout)
    _, live = judge_all(samples)
    again = replay(stored(samples), JudgePolicy(), new="43", old="42")
    assert [tick.verdict for tick in again.ticks] == live
    assert [(tick.at, tick.stage_index, tick.permille) for tick in again.ticks] == [
        (each.at, each.stage_index, each.permille) for each in samples
    ]


def test_another_policy_says_when_it_would_have_failed_and_why() -> None:
    lenient = replay(stored(SLIGHTLY_BAD), JudgePolicy(margin=6), new="43", old="42")
    assert (lenient.failure, lenient.failed_at) == (None, None)
    assert lenient.sentence.startswith("It would not have failed. At the end: Release 43 failed 160 of 12")
    strict = replay(stored(SLIGHTLY_BAD), JudgePolicy(margin=1.5), new="43", old="42")
    assert strict.failure is not None
    seconds = (strict.ticks.index(strict.failure)) * 2
    assert strict.failed_at == BEGIN + timedelta(seconds=seconds)
    assert strict.sentence == (
        f"It would have failed at {strict.failed_at:%H:%M:%S} (UTC), {seconds} s after the first observation,"
        f" at 10 %: {strict.failure.verdict.sentence}"
    )
    assert strict.failure.verdict.blame == "errors"
    assert all(tick.verdict.outcome != "fail" for tick in strict.ticks[: strict.ticks.index(strict.failure)])


def test_a_smaller_budget_fails_sooner() -> None:
    moments = [replay(SLIGHTLY_BAD, JudgePolicy(margin=6, error_budget=budget)).failed_at for budget in (5, 20, 1000)]
    assert moments[0] is not None
    assert moments[1] is not None
    assert (moments[0] < moments[1], moments[2]) == (True, None)


def test_a_replay_of_nothing_says_so_and_is_json() -> None:
    nothing = replay([], JudgePolicy())
    assert nothing.to_json() == {
        "failed_at": None, "sentence": "Nothing was observed of this rollout: there is nothing to judge.", "ticks": [],
    }  # fmt: skip
    assert nothing.last is None
    some = replay(SLIGHTLY_BAD[:3], JudgePolicy())
    assert some.last == some.ticks[-1].verdict
    assert json.loads(json.dumps(some.to_json()))["ticks"][2]["at"] == "2026-11-27T02:30:04+00:00"
