"""The fixed limits and the rising pressure, as a function of what is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.identity.roles import SEED_PRIORITIES
from controlplane.monitoring.pressure import Pressure
from ratelimits.shedding.policy import BUILT_IN, PASS, Rank, SheddingPolicy, Verdict, rank_of, under_pressure

TECH_LEAD = "AI Bridge/Tech Lead"
NOW = 1000.0

percents = st.floats(0, 120)
policies = st.builds(
    SheddingPolicy,
    memory_limit_percent=st.integers(1, 100),
    pressure_percent=st.integers(1, 100),
    connections_limit=st.integers(1, 5000),
    delay_step_ms=st.integers(0, 1000),
    most_delay_ms=st.integers(0, 10_000),
)
chances = st.floats(0, 1, exclude_max=True)


def seen(memory: float = 10.0, connections: int = 5, sampled_at: float = NOW) -> Pressure:
    return Pressure(int(memory), 100, memory, connections, sampled_at)


def judge(
    pressure: Pressure,
    role: str = "default",
    *,
    policy: SheddingPolicy = BUILT_IN,
    random: float = 0.5,
    rank: Rank = Rank.LOW,
    may_wait: bool = False,
    now: float = NOW,
) -> Verdict:
    return under_pressure(policy, pressure, role, now, random, rank=rank, may_wait=may_wait)


@pytest.mark.parametrize(
    ("pressure", "reason"),
    [
        (seen(90.0), "pressure"),  # "over 90 %": at 90 the early refusals have become certain
        (seen(90.1), "memory"),
        (seen(connections=1000), None),
        (seen(connections=1001), "connections"),
        (seen(95.0, 2000), "memory"),
    ],
)
def test_the_seeds_limits_hold_above_their_figures_only(pressure: Pressure, reason: str | None) -> None:
    assert judge(pressure).reason == reason


@given(percents, st.integers(0, 5000), policies, st.booleans(), chances)
def test_an_exempt_role_is_never_refused_and_never_waits(
    memory: float, connections: int, policy: SheddingPolicy, may_wait: bool, random: float
) -> None:
    pressure = seen(memory, connections)
    assert judge(pressure, TECH_LEAD, policy=policy, may_wait=may_wait, random=random, rank=Rank.TOP) == PASS


@given(percents, st.integers(0, 5000), policies, chances, st.sampled_from(Rank))
def test_over_a_fixed_limit_nobody_else_gets_through(
    memory: float, connections: int, policy: SheddingPolicy, random: float, rank: Rank
) -> None:
    over = memory > policy.memory_limit_percent or connections > policy.connections_limit
    verdict = judge(seen(memory, connections), policy=policy, random=random, rank=rank)
    assert (verdict.reason in ("memory", "connections")) is over


@given(percents, policies, chances, st.sampled_from(Rank))
def test_an_async_request_waits_by_the_seeds_formula_and_never_longer_than_the_bound(
    memory: float, policy: SheddingPolicy, random: float, rank: Rank
) -> None:
    verdict = judge(seen(memory, 0), policy=policy, random=random, rank=rank, may_wait=True)
    if memory > policy.memory_limit_percent:
        assert verdict == Verdict("memory")
    else:
        expected = min(policy.most_delay_ms, max(0.0, memory - policy.pressure_percent) * policy.delay_step_ms)
        assert verdict.reason is None
        assert verdict.delay_seconds == pytest.approx(expected / 1000)


@pytest.mark.parametrize(("memory", "seconds"), [(75.0, 0.0), (76.0, 0.02), (80.0, 0.1), (90.0, 0.3)])
def test_the_delay_at_the_seeds_figures(memory: float, seconds: float) -> None:
    assert judge(seen(memory), may_wait=True).delay_seconds == pytest.approx(seconds)


@given(percents, policies, chances, st.sampled_from(Rank))
def test_a_sync_worker_never_sleeps(memory: float, policy: SheddingPolicy, random: float, rank: Rank) -> None:
    assert judge(seen(memory), policy=policy, random=random, rank=rank).delay_seconds == 0.0


@given(st.floats(0, 90), st.floats(0, 90), chances)
def test_more_memory_never_means_a_smaller_chance_of_refusal(one: float, other: float, random: float) -> None:
    low, high = sorted((one, other))
    refused_low = judge(seen(low), random=random).reason is not None
    refused_high = judge(seen(high), random=random).reason is not None
    assert refused_high or not refused_low


def test_the_chance_grows_evenly_from_none_to_certainty() -> None:
    chance = {
        m: sum(judge(seen(m), random=n / 1000).reason is not None for n in range(1000)) for m in (75, 78, 82.5, 90)
    }
    assert chance == {75: 0, 78: 200, 82.5: 500, 90: 1000}


@given(st.floats(0, 90), chances)
def test_rising_pressure_refuses_the_low_classes_only(memory: float, random: float) -> None:
    for rank in (Rank.MIDDLE, Rank.TOP):
        assert judge(seen(memory), "CEO", random=random, rank=rank) == PASS


@given(percents, st.integers(0, 5000))
def test_a_sample_that_nobody_renews_is_not_believed(memory: float, connections: int) -> None:
    assert judge(seen(memory, connections, sampled_at=NOW - 5.1)) == PASS


@pytest.mark.parametrize(
    ("role", "rank"),
    [
        (TECH_LEAD, Rank.TOP),
        ("CEO", Rank.MIDDLE),
        ("Setup Team Lead", Rank.MIDDLE),
        ("External", Rank.LOW),
        ("default", Rank.LOW),
        ("nobody knows it", Rank.LOW),
    ],
)
def test_ranks_follow_the_role_table(role: str, rank: Rank) -> None:
    assert rank_of(role, SEED_PRIORITIES) is rank


def test_where_all_roles_count_alike_nobody_is_low() -> None:
    assert rank_of("default", {"default": 10}) is Rank.TOP
    assert rank_of("unknown", {"default": 10}) is Rank.TOP


@given(policies)
def test_a_published_policy_is_read_back_as_it_was(policy: SheddingPolicy) -> None:
    assert SheddingPolicy.from_json(policy.to_json()) == policy


def test_a_policy_that_was_changed_under_way_is_refused() -> None:
    text = BUILT_IN.to_json()
    with pytest.raises(ValueError, match="not a published"):
        SheddingPolicy.from_json(text.replace('"lag_ms":25', '"lag_ms":26'))
    for nonsense in ("", "{}", "null", '{"digest":"0","policy":{},"version":1}'):
        with pytest.raises(ValueError, match="not a published"):
            SheddingPolicy.from_json(nonsense)
