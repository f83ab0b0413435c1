"""What the judge says of a release, tick by tick, and in which words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.judge.memory import MOST_OPEN_TICKS, WARM_UP_SECONDS, Memory
from deployments.judge.types import Counts, JudgePolicy, Sample, Verdict
from deployments.judge.verdict import judge
from tests.deployments.judge.ticking import judge_all, sample

GOOD_TICK = Counts(10), Counts(90)

counts = st.integers(0, 60).flatmap(
    lambda n: st.builds(
        Counts, st.just(n), st.integers(0, n), st.integers(0, n), st.integers(0, n // 2), st.integers(0, n // 2)
    )
)
rollouts = st.lists(
    st.tuples(st.none() | counts, st.none() | counts, st.sampled_from([(0, 100), (1, 500), (2, 1000)])), max_size=6
)


def samples_of(rollout: list[tuple[Counts | None, Counts | None, tuple[int, int]]]) -> list[Sample]:
    ordered = sorted(rollout, key=lambda tick: tick[2])
    return [sample(i, new, old, stage_index=s, permille=p) for i, (new, old, (s, p)) in enumerate(ordered)]


def last(verdicts: list[Verdict]) -> tuple[str, str, str]:
    return verdicts[-1].outcome, verdicts[-1].blame, verdicts[-1].sentence


def test_a_release_that_is_no_worse_passes_with_its_numbers() -> None:
    _, verdicts = judge_all(
        [sample(i, Counts(10, 1 if i == 40 else 0), Counts(90, 1 if i % 10 == 0 else 0), score=100) for i in range(60)]
    )
    assert last(verdicts) == (
        "pass",
        "none",
        "Release 43 failed 1 of 600 requests (0.17 %), release 42 6 of 5\u202f400 (0.11 %): no worse;"
        " health 100 of 100.",
    )


def test_a_worse_release_fails_with_numbers_that_a_person_can_check() -> None:
    _, verdicts = judge_all([sample(i, Counts(10, i % 2), Counts(90, i == 1)) for i in range(12)])
    first = next(verdict for verdict in verdicts if verdict.outcome == "fail")
    assert (first.blame, first.sentence) == (
        "errors",
        "Release 43 failed 5 of 100 requests (5 %), release 42 1 of 900 (0.11 %): 1 in 570 by chance.",
    )
    assert {name: first.numbers[name] for name in ("errors_new", "requests_new", "errors_old", "requests_old")} == {
        "errors_new": 5, "requests_new": 100, "errors_old": 1, "requests_old": 900,
    }  # fmt: skip
    assert first.numbers["e_errors"] >= first.numbers["threshold_errors"] == 111.11


@pytest.mark.parametrize(("new", "old", "most_errors"), [(1, 9, 3), (10, 90, 10), (3, 3, 9)])
def test_total_failure_is_decided_from_the_first_few_errors(new: int, old: int, most_errors: int) -> None:
    permille = round(1000 * new / (new + old))
    _, verdicts = judge_all([sample(i, Counts(new, new), Counts(old), permille=permille) for i in range(8)])
    first = next(verdict for verdict in verdicts if verdict.outcome == "fail")
    assert first.blame == "errors"
    assert first.numbers["errors_new"] <= most_errors


def test_total_failure_with_all_traffic_is_decided_from_the_first_four_requests() -> None:
    _, verdicts = judge_all([sample(i, Counts(2, 2), None, permille=1000) for i in range(2)])
    assert last(verdicts) == (
        "fail",
        "errors",
        "Release 43 failed 4 of 4 requests (100 %): 1 in 11\u202f000 by chance.",
    )


def test_slow_requests_fail_a_release_as_errors_do() -> None:
    _, verdicts = judge_all([sample(i, Counts(10, 0, 1), Counts(90, 0, i == 3)) for i in range(30)])
    first = next(verdict for verdict in verdicts if verdict.outcome == "fail")
    assert first.blame == "slow"
    assert first.sentence.startswith("Release 43 was slow in 4 of 40 requests (10 %), release 42 0 of 360 (0 %): 1 in")
    assert first.numbers["threshold_slow"] == 1000


def test_cold_instances_are_not_blamed_for_being_slow_at_first() -> None:
    cold = [sample(i, Counts(10, 0, 5), Counts(90)) for i in range(int(WARM_UP_SECONDS / 2))]
    warm = [sample(len(cold) + i, *GOOD_TICK) for i in range(20)]
    _, verdicts = judge_all(cold + warm)
    assert {verdict.outcome for verdict in verdicts[2:]} == {"pass"}
    assert verdicts[-1].numbers["slow_new"] == 0


def test_the_tests_share_alpha_so_that_both_together_keep_it() -> None:
    _, verdict = judge(JudgePolicy(alpha=0.02), {}, sample(0, *GOOD_TICK))
    thresholds = verdict.numbers["threshold_errors"], verdict.numbers["threshold_slow"]
    assert sum(1 / threshold for threshold in thresholds) == pytest.approx(0.02, rel=1e-3)


def test_an_error_budget_fails_a_release_that_is_worse_by_less_than_the_margin() -> None:
    """1 % and 1.4 %: tolerated odds, but at five hundred requests a second that is one error more every second."""
    ticks = [sample(i, Counts(500, 7), Counts(500, 5), permille=500) for i in range(400)]
    _, verdicts = judge_all(ticks)
    first = next(i for i, verdict in enumerate(verdicts) if verdict.outcome == "fail")
    assert verdicts[first].blame == "budget"
    assert verdicts[first].numbers["e_errors"] < 1
    assert "100 are allowed" in verdicts[first].sentence
    assert verdicts[first].numbers["budget_used"] >= 100 > verdicts[first - 1].numbers["budget_used"]
    assert judge_all(ticks[:first], JudgePolicy(error_budget=20))[1][-1].outcome == "fail"
    assert judge_all(ticks[: first + 1], JudgePolicy(error_budget=101))[1][-1].outcome == "pass"


def test_an_outage_of_both_uses_nothing_of_the_budget() -> None:
    _, verdicts = judge_all([sample(i, Counts(500, 100), Counts(500, 100), permille=500) for i in range(20)])
    assert verdicts[-1].numbers["budget_used"] == 0
    assert verdicts[-1].numbers["budget_excess"] == 0


@pytest.mark.parametrize("gate", ["zantara-43-0 ended by itself 4 times.", "out of memory"])
def test_a_hard_gate_fails_it_at_once_even_without_counts(gate: str) -> None:
    state, verdicts = judge_all([sample(0, None, None, gates=(gate,), score=100)])
    assert last(verdicts) == ("fail", "gate", f"Release 43: {gate.rstrip('.')}.")
    assert state == Memory().to_json()


def test_too_few_requests_in_the_stage_are_inconclusive_however_many_there_were_before() -> None:
    _, verdicts = judge_all(
        [sample(i, *GOOD_TICK) for i in range(10)] + [sample(10, Counts(7), Counts(7), stage_index=1, permille=500)]
    )
    assert verdicts[-2].outcome == "pass"
    assert last(verdicts) == (
        "inconclusive", "data", "Release 43 had 7 of the 20 requests that this stage needs: too few to judge.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("new", "old"), [(None, Counts(90)), (Counts(10), None), (None, None)], ids=["new", "old", "both"]
)
def test_without_counts_nothing_passes_nothing_fails_and_nothing_is_forgotten(
    new: Counts | None, old: Counts | None
) -> None:
    before, _ = judge_all([sample(i, *GOOD_TICK) for i in range(10)])
    state, verdicts = judge_all([sample(i, new, old, score=100) for i in range(10, 200)], state=before)
    assert {(verdict.outcome, verdict.blame) for verdict in verdicts} == {("inconclusive", "data")}
    assert state == before
    assert verdicts[-1].sentence == "The edge gave no counts: nothing can be said of release 43 meanwhile."


def test_a_low_score_blocks_without_failing_and_says_what_is_wrong() -> None:
    _, verdicts = judge_all(
        [sample(i, *GOOD_TICK, score=62, score_reasons=("zantara-43-0: vector_store failed",)) for i in range(200)]
    )
    assert {verdict.outcome for verdict in verdicts} == {"inconclusive"}
    assert last(verdicts) == (
        "inconclusive", "score",
        "The health of release 43 is 62 of 100, 80 are needed: zantara-43-0: vector_store failed.",
    )  # fmt: skip


def test_a_release_without_a_score_is_not_held_for_it() -> None:
    assert judge_all([sample(i, *GOOD_TICK, score=None) for i in range(5)])[1][-1].outcome == "pass"


def test_a_baseline_that_is_just_as_bad_holds_instead_of_aborting() -> None:
    _, verdicts = judge_all([sample(i, Counts(10, 2), Counts(90, 17)) for i in range(300)])
    assert {verdict.outcome for verdict in verdicts} == {"inconclusive"}
    assert last(verdicts) == (
        "inconclusive", "baseline",
        "Release 43 fails 20 % of its requests at the moment, release 42 19 %: release 43 is no worse,"
        " and nothing goes on meanwhile.",
    )  # fmt: skip


def test_it_goes_on_once_the_shared_outage_is_over() -> None:
    _, verdicts = judge_all(
        [sample(i, Counts(10, 2), Counts(90, 18)) for i in range(30)]
        + [sample(i, *GOOD_TICK) for i in range(30, 60)]
    )  # fmt: skip
    assert (verdicts[29].blame, verdicts[-1].outcome) == ("baseline", "pass")


def test_our_own_sheds_and_limits_are_no_errors_and_no_requests() -> None:
    shedding = Counts(requests=100, errors=0, shed=60, limited=30)
    _, verdicts = judge_all([sample(i, shedding, Counts(90)) for i in range(5)])
    assert verdicts[-1].outcome == "pass"
    assert (verdicts[-1].numbers["requests_new"], verdicts[-1].numbers["errors_new"]) == (50, 0)
    _, verdicts = judge_all([sample(i, Counts(100, 0, 0, 100), Counts(90)) for i in range(5)])
    assert (verdicts[-1].outcome, verdicts[-1].blame) == ("inconclusive", "data")


@pytest.mark.parametrize(("new", "old"), [(10, 10), (100, 100), (1, 1)])
def test_errors_0_1_2_1_0_0_beside_six_zeros_are_insufficient_and_no_pass(new: int, old: int) -> None:
    _, verdicts = judge_all(
        [sample(i, Counts(new, min(new, k)), Counts(old), permille=500) for i, k in enumerate([0, 1, 2, 1, 0, 0])]
    )
    assert verdicts[-1].outcome == "inconclusive"


def test_what_is_too_little_to_decide_is_too_much_to_promote() -> None:
    _, verdicts = judge_all([sample(i, Counts(100, k), Counts(100), permille=500) for i, k in enumerate([1, 2, 1])])
    assert last(verdicts) == (
        "inconclusive", "errors",
        "Release 43 failed 4 of 300 requests (1.3 %), release 42 0 of 300 (0 %): 1 in 5 by chance,"
        " too likely to go on yet.",
    )  # fmt: skip


def test_counts_are_put_together_until_both_releases_have_some() -> None:
    """One request every two seconds: never both in one tick, and yet total failure is seen."""
    ticks = [
        sample(i, Counts(1, 1) if i % 2 else Counts(), Counts() if i % 2 else Counts(1), permille=500)
        for i in range(40)
    ]
    _, verdicts = judge_all(ticks)
    first = next(verdict for verdict in verdicts if verdict.outcome == "fail")
    assert (first.blame, first.numbers["errors_new"]) == ("errors", 11)


def test_what_waits_too_long_for_a_counterpart_is_no_evidence_but_counts_for_the_budget() -> None:
    state, verdicts = judge_all([sample(i, Counts(2, 1), Counts()) for i in range(MOST_OPEN_TICKS)])
    assert verdicts[-1].numbers["e_errors"] == 1
    assert (state["open_ticks"], state["judged"], state["alone"]) == (0, MOST_OPEN_TICKS, 2 * MOST_OPEN_TICKS)


def test_with_all_traffic_it_is_compared_with_what_the_old_release_was_known_for() -> None:
    before = [sample(i, Counts(50, 1), Counts(50, 1), permille=500, stage_index=1) for i in range(100)]
    alone = {"permille": 1000, "stage_index": 2}
    _, usual = judge_all(before + [sample(i, Counts(100, 2), Counts(), **alone) for i in range(100, 200)])
    assert usual[-1].outcome == "pass"
    _, worse = judge_all(before + [sample(i, Counts(100, 20), Counts(), **alone) for i in range(100, 200)])
    first = next(i for i, verdict in enumerate(worse) if verdict.outcome == "fail")
    assert (worse[first].blame, first < 104) == ("errors", True)


def test_with_all_traffic_the_budget_catches_what_is_no_proof() -> None:
    before = [sample(i, Counts(50), Counts(50), permille=500, stage_index=1) for i in range(100)]
    after = [sample(i, Counts(100, 3), Counts(), permille=1000, stage_index=2) for i in range(100, 150)]
    _, verdicts = judge_all(before + after)
    first = next(i for i, verdict in enumerate(verdicts) if verdict.outcome == "fail")
    assert (verdicts[first].blame, first) == ("budget", 133)


def test_what_the_old_release_did_before_the_shift_is_its_rate() -> None:
    """All traffic at once: the ticks before it, at a share of 0, are all that is known of the old release."""
    before = [sample(i, None, Counts(100, 12), permille=0) for i in range(30)]
    same = [sample(i, Counts(100, 12), None, permille=1000) for i in range(30, 60)]
    _, verdicts = judge_all(before + same)
    assert "fail" not in {verdict.outcome for verdict in verdicts}
    assert (verdicts[-1].outcome, verdicts[-1].blame) == ("inconclusive", "errors")
    _, verdicts = judge_all(same)
    assert verdicts[-1].outcome == "fail"


def test_a_first_release_is_not_blamed_for_being_slow() -> None:
    _, verdicts = judge_all([sample(i, Counts(20, 0, 20), None, permille=1000) for i in range(60)])
    assert verdicts[-1].outcome == "pass"


def test_the_evidence_outlives_a_stage() -> None:
    bad = [sample(i, Counts(10, 1), Counts(90)) for i in range(3)]
    later = sample(3, Counts(50), Counts(50), stage_index=1, permille=500)
    _, verdicts = judge_all([*bad, later])
    assert verdicts[-2].numbers["e_errors"] == verdicts[-1].numbers["e_errors"] > 50
    assert verdicts[-1].numbers["stage_requests"] == 50


def test_without_versions_the_sentence_speaks_of_new_and_old() -> None:
    _, verdict = judge(JudgePolicy(), {}, sample(0, Counts(30), Counts(90)))
    assert verdict.sentence == "The new release failed 0 of 30 requests (0 %), the old release 0 of 90 (0 %): no worse."


def test_a_clock_that_jumps_back_changes_no_verdict() -> None:
    ticks = [sample(i, Counts(10, i % 5 == 0), Counts(90)) for i in range(30)]
    jumped = [replace(each, at=each.at.replace(hour=1)) if i > 15 else each for i, each in enumerate(ticks)]
    outcomes = [[(v.outcome, v.blame) for v in judge_all(each)[1]] for each in (ticks, jumped)]
    assert outcomes[0] == outcomes[1]


@settings(max_examples=25)
@given(rollouts)
def test_state_and_verdict_are_json_and_nothing_given_is_changed(rollout: list[Any]) -> None:
    state: dict[str, Any] = {}
    for each in samples_of(rollout):
        before = json.dumps(state)
        after, verdict = judge(JudgePolicy(), state, each)
        assert json.dumps(state) == before
        assert json.loads(json.dumps(after)) == after
        assert json.loads(json.dumps(verdict.to_json()))["outcome"] == verdict.outcome
        assert Memory.from_json(after).to_json() == after
        state = after


@settings(max_examples=25)
@given(rollouts)
def test_whatever_comes_verdicts_have_a_sentence_and_a_known_blame(rollout: list[Any]) -> None:
    for each, verdict in zip(samples_of(rollout), judge_all(samples_of(rollout))[1], strict=True):
        assert verdict.sentence.endswith(".")
        assert verdict.blame in {"errors", "slow", "budget", "gate", "score", "data", "baseline", "none"}
        assert (verdict.outcome == "pass") == (verdict.blame == "none")
        if each.new is None or (each.old is None and each.permille < 1000):
            assert verdict.outcome != "pass"


@settings(max_examples=25)
@given(rollouts, st.data())
def test_one_error_more_never_turns_a_failure_into_anything_else(rollout: list[Any], data: st.DataObject) -> None:
    ticks = samples_of(rollout)
    can = [
        i for i, t in enumerate(ticks)
        if t.new is not None and t.new.errors < t.new.requests - t.new.shed - t.new.limited and t.permille < 1000
    ]  # fmt: skip
    if not can:
        return
    i = data.draw(st.sampled_from(can))
    new = ticks[i].new
    assert new is not None
    worse = [*ticks[:i], replace(ticks[i], new=replace(new, errors=new.errors + 1)), *ticks[i + 1 :]]
    for before, after in zip(judge_all(ticks)[1], judge_all(worse)[1], strict=True):
        assert after.numbers["e_errors"] >= before.numbers["e_errors"] * (1 - 1e-9)
        if before.outcome == "fail":
            assert after.outcome == "fail"
