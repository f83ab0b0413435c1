"""The sequential test: exact values, and the properties from which its bound follows."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.judge import sequential
from deployments.judge.sequential import (
    FIRST_BET,
    GRID,
    Evidence,
    Trials,
    alone_ratios,
    compare,
    compare_alone,
    highest_share,
    scale_odds,
    split_ratios,
)

MARGIN = 1.5
RHOS = [factor * MARGIN for factor in GRID]

trials = st.integers(0, 40).flatmap(lambda n: st.builds(Trials, st.just(n), st.integers(0, n)))
ticks = st.lists(st.tuples(trials, trials), max_size=6)


def folded(pairs: list[tuple[Trials, Trials]], margin: float = MARGIN) -> Evidence:
    evidence = Evidence()
    for new, old in pairs:
        evidence = compare(evidence, new, old, margin=margin)
    return evidence


def splits(new: int, old: int, bad: int, rho: float) -> dict[int, float]:
    """Fisher's noncentral hypergeometric distribution from its definition, with whole numbers."""
    weights = {
        k: math.comb(new, k) * math.comb(old, bad - k) * rho**k for k in range(max(0, bad - old), min(new, bad) + 1)
    }
    total = sum(weights.values())
    return {k: weight / total for k, weight in weights.items()}


def test_the_alternatives_are_24_from_half_as_bad_again_as_tolerated_to_six_hundred_times() -> None:
    assert (len(GRID), GRID[0]) == (24, 1.5)
    assert GRID[-1] == pytest.approx(600)
    assert [later / earlier for earlier, later in itertools.pairwise(GRID)] == pytest.approx([400 ** (1 / 23)] * 23)


def test_before_anything_was_seen_the_evidence_is_one() -> None:
    assert Evidence().e == pytest.approx(1, rel=1e-12)


def test_one_error_of_the_new_releases_single_request_among_ten_is_worth_what_one_computes_by_hand() -> None:
    """One bad request of ten: it is the new release's with chance rho / (rho + 9), with 1.5 / 10.5 if tolerated."""
    by_hand = [(rho / (rho + 9)) / (1.5 / 10.5) for rho in RHOS]
    assert split_ratios(Trials(1, 1), Trials(9, 0), margin=MARGIN) == pytest.approx([math.log(x) for x in by_hand])
    evidence = compare(Evidence(), Trials(1, 1), Trials(9, 0), margin=MARGIN)
    assert evidence.e == pytest.approx(0.9 * sum(by_hand) / 24 + 0.1)
    assert evidence.e == pytest.approx(4.6811, abs=1e-4)


def test_two_errors_of_two_requests_beside_two_good_ones_are_worth_what_one_computes_by_hand() -> None:
    """Two bad of four: both are the new release's with chance rho² / (1 + 4 rho + rho²)."""
    by_hand = [(rho**2 / (1 + 4 * rho + rho**2)) / (2.25 / 9.25) for rho in RHOS]
    assert split_ratios(Trials(2, 2), Trials(2, 0), margin=MARGIN) == pytest.approx([math.log(x) for x in by_hand])


def test_an_error_of_the_old_release_speaks_for_the_new_one() -> None:
    """One bad of ten, and it is the old one's: with chance 9 / (rho + 9), with 9 / 10.5 if tolerated."""
    by_hand = [(9 / (rho + 9)) / (9 / 10.5) for rho in RHOS]
    evidence = compare(Evidence(), Trials(1, 0), Trials(9, 1), margin=MARGIN)
    assert evidence.e == pytest.approx(0.9 * sum(by_hand) / 24 + 0.1)
    assert evidence.e < 1


def test_the_evidence_of_two_ticks_is_the_mean_of_the_products() -> None:
    one = [(rho / (rho + 9)) / (1.5 / 10.5) for rho in RHOS]
    evidence = folded([(Trials(1, 1), Trials(9, 0))] * 2)
    assert evidence.e == pytest.approx(0.9 * sum(x * x for x in one) / 24 + 0.1)
    assert evidence.e == pytest.approx(26.4425, abs=1e-4)


def test_where_bad_events_are_rare_it_is_the_form_of_the_papers() -> None:
    """theta = rho*w / (rho*w + 1 - w), per bad event."""
    new, old, w = Trials(100_000, 3), Trials(900_000, 2), 0.1
    null = MARGIN * w / (MARGIN * w + 1 - w)
    papers = [
        3 * math.log((rho * w / (rho * w + 1 - w)) / null) + 2 * math.log((1 - w) / (rho * w + 1 - w) / (1 - null))
        for rho in RHOS
    ]
    assert split_ratios(new, old, margin=MARGIN) == pytest.approx(papers, abs=2e-3)
    assert sequential._limit_ratios(new, old, MARGIN) == pytest.approx(papers)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_under_the_tolerated_odds_the_mean_of_every_ratio_is_one_and_below_them_less(
    new: int, old: int, data: st.DataObject
) -> None:
    bad = data.draw(st.integers(0, new + old))
    true = data.draw(st.floats(0.05, 1.5))
    ratios = {
        k: [math.exp(x) for x in split_ratios(Trials(new, k), Trials(old, bad - k), margin=MARGIN)]
        for k in splits(new, old, bad, 1)
    }
    for i in range(len(GRID)):
        assert sum(p * ratios[k][i] for k, p in splits(new, old, bad, MARGIN).items()) == pytest.approx(1)
        assert sum(p * ratios[k][i] for k, p in splits(new, old, bad, true).items()) <= 1 + 1e-9


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_the_cheaper_form_for_very_many_events_has_a_mean_of_at_most_one_too(
    new: int, old: int, data: st.DataObject
) -> None:
    bad = data.draw(st.integers(0, new + old))
    for i in range(len(GRID)):
        mean = sum(
            p * math.exp(sequential._limit_ratios(Trials(new, k), Trials(old, bad - k), MARGIN)[i])
            for k, p in splits(new, old, bad, MARGIN).items()
        )
        assert mean <= 1 + 1e-9


@settings(max_examples=25)
@given(st.integers(1, 30), st.floats(0.001, 0.6), st.floats(0, 1))
def test_alone_the_mean_is_at_most_one_up_to_the_tolerated_share(n: int, reference: float, part: float) -> None:
    true = part * scale_odds(reference, MARGIN)
    for i in range(len(GRID)):
        mean = sum(
            math.comb(n, k) * true**k * (1 - true) ** (n - k)
            * math.exp(alone_ratios(Trials(n, k), reference=reference, margin=MARGIN)[i])
            for k in range(n + 1)
        )  # fmt: skip
        assert mean <= 1 + 1e-9


@settings(max_examples=25)
@given(ticks, st.data())
def test_one_more_bad_request_of_the_new_release_never_means_less_evidence(
    pairs: list[tuple[Trials, Trials]], data: st.DataObject
) -> None:
    can = [i for i, (new, _) in enumerate(pairs) if new.bad < new.requests]
    if not can:
        return
    i = data.draw(st.sampled_from(can))
    new, old = pairs[i]
    worse = [*pairs[:i], (Trials(new.requests, new.bad + 1), old), *pairs[i + 1 :]]
    assert folded(worse).log_e >= folded(pairs).log_e - 1e-9


@settings(max_examples=25)
@given(ticks, st.data())
def test_one_more_bad_request_of_the_old_release_never_means_more_evidence(
    pairs: list[tuple[Trials, Trials]], data: st.DataObject
) -> None:
    can = [i for i, (_, old) in enumerate(pairs) if old.bad < old.requests]
    if not can:
        return
    i = data.draw(st.sampled_from(can))
    new, old = pairs[i]
    better = [*pairs[:i], (new, Trials(old.requests, old.bad + 1)), *pairs[i + 1 :]]
    assert folded(better).log_e <= folded(pairs).log_e + 1e-9


@settings(max_examples=25)
@given(ticks)
def test_the_order_of_ticks_does_not_matter_while_one_bet_is_out(pairs: list[tuple[Trials, Trials]]) -> None:
    assert folded(pairs).log_e == pytest.approx(folded(pairs[::-1]).log_e, abs=1e-9)


@settings(max_examples=25)
@given(trials)
def test_a_tick_in_which_one_release_answered_nothing_is_no_evidence(some: Trials) -> None:
    before = folded([(Trials(5, 1), Trials(40, 1))])
    assert compare(before, some, Trials(), margin=MARGIN) is before
    assert compare(before, Trials(), some, margin=MARGIN) is before
    assert compare_alone(before, Trials(), reference=0.05, margin=MARGIN) is before


def test_ticks_without_bad_requests_leave_e_where_it_was_however_many_there_are() -> None:
    before = folded([(Trials(5, 1), Trials(40, 1))])
    after = before
    for _ in range(400):
        after = compare(after, Trials(5), Trials(45), margin=MARGIN)
    assert after.e == pytest.approx(before.e, rel=1e-9)
    assert after.ticks == 401


def test_an_outage_that_strikes_both_alike_is_no_evidence() -> None:
    assert folded([(Trials(10, 10), Trials(90, 90))] * 50).e == pytest.approx(1, rel=1e-9)
    assert folded([(Trials(10, 5), Trials(90, 45))] * 50).e < 1


def test_a_release_that_turns_bad_after_a_good_quarter_of_an_hour_is_soon_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without later bets all that was good would first have to be outweighed: 112 errors instead of 17."""

    def errors_needed(evidence: Evidence) -> int:
        for count in range(1, 500):
            evidence = compare(evidence, Trials(10, 1), Trials(90, 0), margin=MARGIN)
            if evidence.e >= 1000:
                return count
        raise AssertionError("never")

    good = [(Trials(10, 0), Trials(90, 1))] * 400
    assert folded(good).e < 0.01
    assert errors_needed(Evidence()) == 4
    assert errors_needed(folded(good)) == 17
    monkeypatch.setattr(sequential, "TICKS_A_BET", 10**9)
    assert errors_needed(folded(good)) == 112


@pytest.mark.parametrize(
    ("new", "old", "most"),
    [
        pytest.param(1, 9, 3, id="10 % of five a second"),
        pytest.param(10, 90, 1, id="10 % of fifty a second"),
        pytest.param(5, 5, 2, id="half of five a second"),
        pytest.param(90, 10, 1, id="90 % of fifty a second"),
    ],
)
def test_total_failure_is_known_after_a_handful_of_requests_at_any_share(new: int, old: int, most: int) -> None:
    assert folded([(Trials(new, new), Trials(old))] * most).e > 1 / 0.009


def test_total_failure_of_a_release_that_is_alone_is_known_after_three_requests() -> None:
    evidence = Evidence()
    for _ in range(3):
        evidence = compare_alone(evidence, Trials(1, 1), reference=0.05, margin=MARGIN)
    assert evidence.e == pytest.approx(934.3, abs=0.1)


@settings(max_examples=25)
@given(st.integers(1, 64), st.integers(1, 10**6), st.data())
def test_the_quick_way_to_sum_up_is_the_careful_one(new: int, old: int, data: st.DataObject) -> None:
    one = Trials(new, data.draw(st.integers(0, new)))
    other = Trials(old, data.draw(st.integers(0, old)))
    least, most = max(0, one.bad + other.bad - old), min(new, one.bad + other.bad)
    ways = sequential._log_ways(one, other, least, most)
    for log_x in (math.log(MARGIN), math.log(RHOS[-1]), math.log(1000)):
        assert sequential._short_sum(ways)(log_x) == pytest.approx(sequential._long_sum(ways)(log_x), rel=1e-9)


def test_enormous_counts_neither_overflow_nor_take_long() -> None:
    evidence = folded([(Trials(10**7, 5 * 10**6), Trials(10**8, 10**5))] * 3)
    assert evidence.e == pytest.approx(math.exp(690))
    assert math.isfinite(evidence.log_e)
    back = folded([(Trials(10**7, 10**3), Trials(10**8, 5 * 10**7))] * 3)
    assert 0 < back.e < 0.26


@settings(max_examples=25)
@given(ticks)
def test_evidence_survives_json_to_the_last_bit(pairs: list[tuple[Trials, Trials]]) -> None:
    evidence = folded(pairs)
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence
    assert Evidence.from_json({}) == Evidence()


def test_the_weight_that_is_bet_and_that_is_kept_back_is_always_one() -> None:
    evidence = Evidence()
    for _ in range(200):
        evidence = evidence.add((0.0,) * len(GRID))
        assert evidence.e == pytest.approx(1, rel=1e-9)
    assert math.exp(evidence.logs[0]) == pytest.approx(FIRST_BET + (1 - FIRST_BET) * (1 - 1 / 7))


@pytest.mark.parametrize(("requests", "bad", "bound"), [(0, 0, 1.0), (1000, 0, 0.009), (1000, 10, 0.0250), (3, 3, 1.0)])
def test_the_highest_share_that_counts_account_for(requests: int, bad: int, bound: float) -> None:
    assert highest_share(Trials(requests, bad)) == pytest.approx(bound, abs=2e-4)
