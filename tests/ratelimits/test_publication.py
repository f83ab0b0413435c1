"""Who may replace a published set, and what becomes of a Redis that has lost, kept or mangled it."""

from __future__ import annotations

import json

import pytest
import redis
from django.db import transaction

from ratelimits import policies
from ratelimits.config import limits_config
from ratelimits.decision import BUILT_IN, PolicySet
from ratelimits.limiter import Limiter, keys
from ratelimits.limiter.publication import publish, read, tag_in_force, tag_of, version_of, with_digest
from ratelimits.models import PolicyVersion, RateLimitProfile
from tests.ratelimits.limiting import ANYBODY, answered_by_fail_mode, config, counted, policy, put


@pytest.fixture
def limiter(redis_url: str) -> Limiter:
    return Limiter(config(redis_url))


def text_in_force(client: redis.Redis) -> bytes:
    held = client.hget(keys.POLICY_SET, "set")
    assert isinstance(held, bytes)
    return held


# --- replacing -----------------------------------------------------------------------------------


def test_a_higher_version_alone_replaces(redis_client: redis.Redis) -> None:
    assert put(redis_client, 5, policy(50)).status == "in_force"
    for version in (4, 5):
        refused = put(redis_client, version, policy(1))
        assert (refused.status, refused.version_in_redis) == ("superseded", 5)
        assert PolicySet.from_json(text_in_force(redis_client)).policies[0].requests == 50
    assert put(redis_client, 5, policy(50)).status == "in_force"  # the very same again
    assert put(redis_client, 6, policy(1)).status == "in_force"
    assert put(redis_client, 10, policy(2)).status == "in_force"  # numbers, not texts


def test_a_tag_is_read_here_as_the_script_reads_it(redis_client: redis.Redis) -> None:
    for tag in (
        "7.abc",
        "0",
        "abc",
        "",
        "7",
        ".7",
        "-3.a",
        "7e9.a",
        "0x10.a",
        "999999999999999.a",
        "9" * 40 + ".a",
        "٣.a",
    ):
        redis_client.delete(keys.POLICY_SET)
        redis_client.hset(keys.POLICY_SET, "tag", tag)
        expected = version_of(tag)
        outcome = put(redis_client, expected, policy()) if expected else None
        if outcome is not None:
            assert outcome.status == "superseded"
        assert put(redis_client, expected + 1, policy()).status == "in_force"


def test_what_is_read_back_must_be_what_was_published() -> None:
    policies = with_digest(PolicySet(9, (policy(),)))
    tag, text = tag_of(policies).encode(), policies.to_json().encode()
    assert read(tag, text) == policies
    for wrong_tag, wrong_text in (
        (b"8" + tag[1:], text),
        (tag, text.replace(b'"requests":5', b'"requests":6')),
        (tag, text.replace(b'"requests":5', b'"requests":"many"')),
        (tag, text[:-1]),
        (tag, b""),
        (tag, b"[" * 100_000),
        (b"\xff", text),
    ):
        with pytest.raises(ValueError):
            read(wrong_tag, wrong_text)


def test_a_set_of_a_newer_release_with_members_we_do_not_know_is_read(
    redis_client: redis.Redis, limiter: Limiter
) -> None:
    rows = json.loads(PolicySet(9, (policy(3, 900),)).to_json())["policies"]
    rows[0]["penalty_seconds"] = 30
    body = json.dumps(rows, separators=(",", ":"), sort_keys=True)
    digest = PolicySet.content_digest(body)
    redis_client.hset(
        keys.POLICY_SET,
        mapping={"tag": f"9.{digest}", "set": f'{{"digest":"{digest}","policies":{body},"version":9}}'},
    )
    assert counted(limiter, 5) == 3


# --- a Redis that lost it ------------------------------------------------------------------------


def test_without_any_published_set_the_seed_holds(limiter: Limiter, redis_client: redis.Redis) -> None:
    assert counted(limiter, 110) == 100
    assert limiter.policies == BUILT_IN
    assert redis_client.exists(keys.POLICY_SET) == 0  # what is built in is never published over a control plane's


def test_a_forgotten_script_is_loaded_again_within_the_same_decision(
    limiter: Limiter, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(5, 900))
    assert counted(limiter, 3) == 3
    redis_client.script_flush()
    assert counted(limiter, 7) == 2
    assert limiter.breaker_state == "closed"


def test_a_service_puts_back_what_a_flushed_redis_has_lost(limiter: Limiter, redis_client: redis.Redis) -> None:
    put(redis_client, 7, policy(5, 900))
    assert counted(limiter, 5) == 5
    redis_client.flushall()
    decision = limiter.decide(ANYBODY)
    assert (decision.allowed, decision.version, decision.windows[0].limit) == (True, 7, 5)
    assert tag_in_force(redis_client) == tag_of(limiter.policies)
    assert put(redis_client, 7, policy(5, 900)).status == "in_force"


def test_a_service_that_knows_less_learns_and_one_that_knows_more_teaches(
    redis_url: str, redis_client: redis.Redis
) -> None:
    old, new = Limiter(config(redis_url)), Limiter(config(redis_url))
    put(redis_client, 5, policy(5, 900))
    assert (old.decide(ANYBODY).version, new.decide(ANYBODY).version) == (5, 5)
    put(redis_client, 6, policy(6, 900))
    assert new.decide(ANYBODY).version == 6
    redis_client.delete(keys.POLICY_SET)
    put(redis_client, 5, policy(5, 900))  # an old snapshot
    assert new.decide(ANYBODY).version == 6
    assert old.decide(ANYBODY).version == 6


# --- garbage -------------------------------------------------------------------------------------

GARBAGE = {
    "a tag without a set": {"tag": "3.0123456789abcdef"},
    "a tag that is no tag": {"tag": "rubbish", "set": "rubbish"},
    "bytes that are no text": {"tag": b"\xff\xfe\x00", "set": b"\x80\x81"},
    "a set that is no JSON": {"tag": "3.0123456789abcdef", "set": "{"},
    "a set of wrong types": {"tag": "3.0123456789abcdef", "set": '{"policies":[{"id":"x"}],"version":3}'},
    "a version beyond all numbers": {"tag": "9" * 300 + ".a", "set": "{}"},
    "a set without a tag": {"set": "{}"},
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("knows", [0, 2, 5])
def test_garbage_never_breaks_a_decision_and_the_next_publication_heals_it(
    limiter: Limiter, redis_client: redis.Redis, garbage: dict[str, bytes | str], knows: int
) -> None:
    if knows:
        put(redis_client, knows, policy(5, 900))
        assert limiter.decide(ANYBODY).version == knows
    redis_client.delete(keys.POLICY_SET)
    redis_client.hset(keys.POLICY_SET, mapping=garbage)  # type: ignore[arg-type]
    decision = limiter.decide(ANYBODY)
    # what it knows holds: counted where it may put it back, else by the fail mode
    assert decision.version == knows
    if version_of(str(garbage.get("tag", ""))) > knows:
        assert answered_by_fail_mode(decision)
    else:
        assert decision.source == "store"
    assert put(redis_client, 9, policy(7, 900)).status == "in_force"
    limiter.breaker.succeeded()
    assert limiter.decide(ANYBODY).version == 9


@pytest.mark.parametrize("knows", [0, 5])
def test_a_key_of_another_kind_in_the_sets_place_is_replaced(
    limiter: Limiter, redis_client: redis.Redis, knows: int
) -> None:
    if knows:
        put(redis_client, knows, policy(5, 900))
        limiter.decide(ANYBODY)
    redis_client.delete(keys.POLICY_SET)
    redis_client.rpush(keys.POLICY_SET, "not", "ours")
    decision = limiter.decide(ANYBODY)
    assert (decision.source, decision.version) == ("store", knows)
    assert put(redis_client, 6, policy(7, 900)).status == "in_force"
    assert limiter.decide(ANYBODY).version == 6


# --- the database's side -------------------------------------------------------------------------


@pytest.fixture
def profile(redis_client: redis.Redis, transactional_db: None) -> RateLimitProfile:
    return RateLimitProfile.objects.create(role="default", requests=5)


def test_each_save_and_each_delete_raises_the_version_by_one(profile: RateLimitProfile) -> None:
    first = PolicyVersion.current()
    profile.requests = 6
    profile.save()
    assert (PolicyVersion.current(), profile.version) == (first + 1, first + 1)
    profile.delete()
    assert PolicyVersion.current() == first + 2
    RateLimitProfile.objects.create(role="CEO")
    RateLimitProfile.objects.all().delete()
    assert PolicyVersion.current() == first + 4


def test_a_save_is_in_force_when_it_returns(profile: RateLimitProfile, limiter: Limiter) -> None:
    assert limiter.decide(ANYBODY).windows[0].limit == 5
    profile.requests = 3
    profile.save()
    decision = limiter.decide(ANYBODY)
    assert (decision.windows[0].limit, decision.version) == (3, PolicyVersion.current())
    profile.delete()
    decision = limiter.decide(ANYBODY)
    assert (decision.source, decision.version) == ("none", PolicyVersion.current())


def test_it_is_published_on_commit_and_not_on_rollback(profile: RateLimitProfile) -> None:
    before = policies.version_in_force()
    with transaction.atomic():
        profile.requests = 77
        profile.save()
        assert policies.version_in_force() == before
    after = policies.version_in_force()
    assert after == PolicyVersion.current() == (before or 0) + 1

    with transaction.atomic():
        profile.requests = 88
        profile.save()
        transaction.set_rollback(True)
    assert policies.version_in_force() == after == PolicyVersion.current()
    profile.refresh_from_db()
    assert profile.requests == 77


def test_an_inactive_profile_is_not_in_the_set(profile: RateLimitProfile) -> None:
    profile.active = False
    profile.save()
    assert policies.build_policy_set().policies == ()


def test_reconcile_fills_an_empty_redis(profile: RateLimitProfile, redis_client: redis.Redis) -> None:
    redis_client.flushdb()
    assert policies.version_in_force() == 0
    outcome = policies.reconcile()
    assert (outcome.status, outcome.version_in_redis) == ("in_force", PolicyVersion.current())
    assert PolicySet.from_json(text_in_force(redis_client)).policies == policies.build_policy_set().policies


def test_reconcile_leaves_alone_what_is_equal(profile: RateLimitProfile, redis_client: redis.Redis) -> None:
    version, text = PolicyVersion.current(), text_in_force(redis_client)
    assert policies.reconcile() == policies.Publication("in_force", version)
    assert (PolicyVersion.current(), text_in_force(redis_client)) == (version, text)


def test_reconcile_replaces_a_lower_version_without_raising_its_own(
    profile: RateLimitProfile, redis_client: redis.Redis
) -> None:
    version = PolicyVersion.current() + 5
    with transaction.atomic():
        PolicyVersion.raise_by_one(above=version - 1)
    assert policies.version_in_force() == version - 5
    assert policies.reconcile() == policies.Publication("in_force", version)


def test_reconcile_overrules_a_higher_version_than_a_restored_database_knows(
    profile: RateLimitProfile, redis_client: redis.Redis, limiter: Limiter
) -> None:
    put(redis_client, 1000, policy(99, 900))
    assert limiter.decide(ANYBODY).version == 1000
    outcome = policies.reconcile()
    assert (outcome.status, outcome.version_in_redis, PolicyVersion.current()) == ("in_force", 1001, 1001)
    decision = limiter.decide(ANYBODY)
    assert (decision.version, decision.windows[0].limit) == (1001, 5)


def test_reconcile_overrules_another_set_under_the_same_version(
    profile: RateLimitProfile, redis_client: redis.Redis, limiter: Limiter
) -> None:
    version = PolicyVersion.current()
    redis_client.delete(keys.POLICY_SET)
    put(redis_client, version, policy(99, 900))
    assert limiter.decide(ANYBODY).windows[0].limit == 99
    assert policies.reconcile().version_in_redis == version + 1
    assert limiter.decide(ANYBODY).windows[0].limit == 5


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_reconcile_heals_garbage(
    profile: RateLimitProfile, redis_client: redis.Redis, limiter: Limiter, garbage: dict[str, bytes | str]
) -> None:
    redis_client.delete(keys.POLICY_SET)
    redis_client.hset(keys.POLICY_SET, mapping=garbage)  # type: ignore[arg-type]
    outcome = policies.reconcile()
    assert (outcome.status, outcome.version_in_redis) == ("in_force", PolicyVersion.current())
    assert limiter.decide(ANYBODY).version == PolicyVersion.current()


def test_reconcile_heals_a_set_that_was_mangled_under_its_right_tag(
    profile: RateLimitProfile, redis_client: redis.Redis, limiter: Limiter
) -> None:
    redis_client.hset(keys.POLICY_SET, "set", "{}")
    assert answered_by_fail_mode(limiter.decide(ANYBODY))
    assert policies.reconcile().status == "in_force"
    assert limiter.decide(ANYBODY).version == PolicyVersion.current()


def test_a_save_that_overtakes_the_reconciler_is_not_overruled(
    profile: RateLimitProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = policies.build_policy_set()
    profile.requests = 6
    profile.save()
    version = PolicyVersion.current()
    answers = [stale]
    fresh = policies.build_policy_set
    monkeypatch.setattr(policies, "build_policy_set", lambda: answers.pop() if answers else fresh())
    assert policies.reconcile() == policies.Publication("in_force", version)
    assert answers == []
    assert PolicyVersion.current() == version


def test_a_save_while_redis_is_away_is_kept_and_not_yet_in_force(
    profile: RateLimitProfile, settings: object, redis_client: redis.Redis
) -> None:
    settings.ZANTARA_REDIS_URL = "unix:///nowhere/redis.sock"  # type: ignore[attr-defined]
    assert limits_config().redis_url.startswith("unix:///nowhere")
    profile.requests = 9
    profile.save()
    assert policies.publish_now() == policies.Publication("unreachable", None)
    assert policies.reconcile() == policies.Publication("unreachable", None)
    assert policies.version_in_force() is None
    profile.refresh_from_db()
    assert profile.requests == 9
    held = read(redis_client.hget(keys.POLICY_SET, "tag") or b"", text_in_force(redis_client))
    assert held.policies[0].requests == 5


def test_a_set_too_large_for_one_reply_still_travels(redis_client: redis.Redis, limiter: Limiter) -> None:
    many = tuple(policy(n, 900, id=n, name=f"p-{n}", subject=f"subject-{n}") for n in range(1, 3000))
    assert publish(redis_client, PolicySet(3, (*many, policy(4, 900, id=5000)))).status == "in_force"
    assert counted(limiter, 6) == 4
