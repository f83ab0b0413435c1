from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from controlplane.kernel.errors import Unavailable
from ratelimits.config import limits_config
from ratelimits.headers import decision_id, explain
from ratelimits.limiter import Asker, Limiter, get_limiter, keys
from ratelimits.usage import Usage, reset_caller, reset_key, usage_of
from tests.ratelimits.limiting import ANYBODY, counters, policy, put


@pytest.fixture
def limiter(redis_url: str) -> Limiter:
    """This process's own limiter, with the project's secret: what the pages ask about is what it counts."""
    get_limiter.cache_clear()
    return get_limiter()


def asker(number: int) -> Asker:
    return replace(ANYBODY, address=f"198.51.100.{number}")


def test_use_is_what_was_allowed_and_denied_and_by_how_many(limiter: Limiter, redis_client: redis.Redis) -> None:
    kept = policy(5, 900, fail_mode="open")
    put(redis_client, 1, kept)
    for number in range(4):
        for _ in range(7):
            limiter.decide(asker(number))
    assert limiter.breaker_state == "closed"
    assert usage_of([kept]) == {1: Usage(allowed=20, denied=8, callers=4)}


def test_a_shadows_denied_is_what_it_would_have_denied(limiter: Limiter, redis_client: redis.Redis) -> None:
    kept, shadow = policy(50, 900), policy(2, 900, id=2, name="strict", enforced=False)
    put(redis_client, 1, kept, shadow)
    for _ in range(7):
        assert limiter.decide(ANYBODY).allowed
    assert usage_of([kept, shadow]) == {1: Usage(7, 0, 1), 2: Usage(2, 5, 1)}


def test_an_unused_profile_has_used_nothing_and_an_unlimited_one_is_not_asked_for(
    limiter: Limiter, redis_client: redis.Redis
) -> None:
    assert usage_of([policy(5, 900), policy(None, 900, id=2)]) == {1: Usage(0, 0, 0)}
    assert usage_of([policy(None, 900)]) == {}


def test_all_profiles_are_asked_for_in_one_round_trip(limiter: Limiter, redis_client: redis.Redis) -> None:
    many = [policy(5, 900, id=n) for n in range(1, 60)]
    usage_of(many)
    redis_client.config_resetstat()
    assert len(usage_of(many)) == 59
    assert redis_client.info("commandstats")["cmdstat_eval"]["calls"] == 1


def test_use_leaves_nothing_behind_that_lives_for_ever(limiter: Limiter, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(5, 60))
    limiter.decide(ANYBODY)
    names = list(redis_client.scan_iter(f"{keys.TAG}:u:*"))
    assert len(names) == 2
    assert all(0 < redis_client.ttl(name) <= 75 for name in names)


def test_resetting_a_caller_gives_him_his_whole_limit_again_and_nobody_else(
    limiter: Limiter, redis_client: redis.Redis
) -> None:
    kept = policy(3, 900, burst_requests=3, burst_window_seconds=60)
    put(redis_client, 1, kept)
    for number in (1, 2):
        assert [limiter.decide(asker(number)).allowed for _ in range(4)] == [True] * 3 + [False]
    assert len(counters(redis_client)) == 4
    assert reset_caller(kept, subject="", address="198.51.100.1") is True
    assert reset_caller(kept, subject="", address="198.51.100.1") is False  # nothing is counted any more
    assert limiter.decide(asker(1)).allowed
    assert not limiter.decide(asker(2)).allowed


def test_a_caller_is_reset_by_the_key_that_his_decision_id_carries(limiter: Limiter, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(1, 900))
    limiter.decide(ANYBODY)
    found = explain(decision_id(limiter.decide(ANYBODY)))
    assert reset_key(found.policy_id, found.key_hash) is True
    assert limiter.decide(ANYBODY).allowed


def test_without_redis_there_are_no_figures_and_nothing_is_said_to_be_reset(settings: object, limiter: Limiter) -> None:
    settings.ZANTARA_REDIS_URL = "unix:///nowhere/redis.sock"  # type: ignore[attr-defined]
    assert limits_config().redis_url.startswith("unix:///nowhere")
    assert usage_of([policy()]) == {}
    with pytest.raises(Unavailable, match="Nothing was reset"):
        reset_caller(policy(), subject="", address="192.0.2.1")
