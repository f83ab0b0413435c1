"""The script in a real Redis: equal to ``window.py``, all or nothing, small, forgetful and discreet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimits.limiter import Asker, Limiter, keys
from ratelimits.limiter.script import DECIDE
from ratelimits.window import SLOTS, Ring, bucket_width, look
from tests.ratelimits.limiting import ANYBODY, config, counted, counters, policy, put

EPOCH = 1_780_000_000_000_000
OWN_DATABASE = 9  # nobody else asks it: threads and services that earlier tests left running use the usual one


@pytest.fixture
def own_url(redis_url: str) -> str:
    assert "db=0" in redis_url
    return redis_url.replace("db=0", f"db={OWN_DATABASE}")


@pytest.fixture
def own(own_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_url) as client:
        client.flushdb()
        yield client
        client.flushdb()


def with_time_from_outside(text: str) -> str:
    """The same script, its clock in the last argument. Keys outlive the test, so that real time plays no part."""
    for old, new in (
        ("redis.call('TIME')", "{ math.floor(ARGV[#ARGV] / 1000000), ARGV[#ARGV] % 1000000 }"),
        ("redis.call('PEXPIRE', w.key, math.ceil(", "redis.call('PEXPIRE', w.key, 600000 + math.ceil("),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


class Replay:
    """The script and the pure module side by side: policies with their windows, one caller."""

    def __init__(self, client: redis.Redis) -> None:
        self.script = client.register_script(with_time_from_outside(DECIDE.text))
        self.rings: dict[str, Ring] = {}

    def step(self, policies: list[tuple[bool, list[tuple[int, int]]]], now: int, cost: int) -> tuple[Any, Any]:
        """What the script and what the module answer to one request; both count it where they let it through."""
        names, args = [keys.POLICY_SET], ["0", cost, len(policies)]
        for p, (enforced, windows) in enumerate(policies):
            args += [int(enforced), len(windows)]
            for n, (limit, seconds) in enumerate(windows):
                names.append(f"c:{p}:{n}")
                args += [limit, bucket_width(seconds)]
        names += [f"u:{p}" for p, (_, windows) in enumerate(policies) if windows]
        return self.script(keys=names, args=[*args, now]), self.model(policies, now, cost)

    def model(self, policies: list[tuple[bool, list[tuple[int, int]]]], now: int, cost: int) -> list[int]:
        looks = [
            [
                look(self.rings.get(f"c:{p}:{n}"), limit=limit, width=bucket_width(seconds), now=now, cost=cost)
                for n, (limit, seconds) in enumerate(windows)
            ]
            for p, (_, windows) in enumerate(policies)
        ]
        fits = [all(seen.fits for seen in row) for row in looks]
        through = all(fit for fit, (enforced, _) in zip(fits, policies, strict=True) if enforced)
        answer = [int(through)]
        for p, row in enumerate(looks):
            counts = through if policies[p][0] else fits[p]
            for n, seen in enumerate(row):
                ring = seen.count(cost) if counts else seen.ring
                if counts or f"c:{p}:{n}" in self.rings:  # what never counted leaves nothing behind
                    self.rings[f"c:{p}:{n}"] = ring
                answer += [ring.total, seen.resets_in if ring.total else 0, seen.wait]
        return answer


WINDOW = st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 7, 59, 60, 61, 900, 86_400, 2_678_400]))
POLICY = st.tuples(st.booleans(), st.lists(WINDOW, min_size=0, max_size=2))
STEP = st.tuples(
    st.one_of(
        st.integers(0, 3),
        st.integers(0, 40_000),
        st.integers(0, 3_000_000),
        st.integers(0, 90_000_000),
        st.integers(0, 10_000_000_000),
        st.integers(-2_000_000, -1),
        st.integers(-5_000_000_000, -1),
    ),
    st.integers(1, 3),
)


@given(st.lists(POLICY, min_size=1, max_size=3), st.lists(STEP, min_size=1, max_size=60), WINDOW)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_script_answers_what_the_pure_module_answers(
    redis_client: redis.Redis, policies: Any, steps: list[tuple[int, int]], edited: tuple[int, int]
) -> None:
    redis_client.flushdb()
    replay, now = Replay(redis_client), EPOCH
    for number, (gap, cost) in enumerate(steps):
        now += gap
        if number == len(steps) // 2 and policies[0][1]:  # an operator edits the first window half-way
            policies = [(policies[0][0], [edited, *policies[0][1][1:]]), *policies[1:]]
        script, module = replay.step(policies, now, cost)
        assert script == module
    for key, ring in replay.rings.items():
        held = {int(k): int(v) for k, v in redis_client.hgetall(key).items() if k.isdigit()}
        if held:  # what was looked at and never counted leaves nothing behind
            expected: dict[int, int] = {}
            for number, count in ring.counts:
                expected[number % SLOTS] = count
            assert {slot: count for slot, count in held.items() if count} == expected


@pytest.mark.parametrize("gap", [1, 7_000, 250_000, 16_667 * 30])
def test_a_dense_stream_agrees_over_several_windows(redis_client: redis.Redis, gap: int) -> None:
    replay, now = Replay(redis_client), EPOCH
    for step in range(600):
        now += gap + (step * 7919) % 1000
        script, module = replay.step([(True, [(200, 2), (20, 1)]), (False, [(90, 1)])], now, 1)
        assert script == module


# --- all or nothing ----------------------------------------------------------------------------


def test_a_request_that_the_burst_denies_costs_nothing_in_the_window(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(100, 900, burst_requests=3, burst_window_seconds=600))
    limiter = Limiter(config(redis_url))
    assert counted(limiter, 10) == 3
    before = counters(redis_client)
    assert len(before) == 2
    decision = limiter.decide(ANYBODY)
    assert not decision.allowed
    assert [window.used for window in decision.windows] == [3, 3]
    assert [window.name for window in decision.violated] == ["default-burst"]
    assert counters(redis_client) == before


def test_a_denied_request_changes_no_counter_and_no_lifetime(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(5, 86_400))
    limiter = Limiter(config(redis_url))
    assert counted(limiter, 5) == 5
    (name,) = redis_client.keys(f"{keys.TAG}:c:*")
    dump, expires_at = redis_client.dump(name), redis_client.pexpiretime(name)
    for _ in range(20):
        assert not limiter.decide(ANYBODY).allowed
    assert redis_client.dump(name) == dump
    assert redis_client.pexpiretime(name) == expires_at
    usage = {k[-1:]: int(v) for k, v in redis_client.hgetall(keys.usage(1)).items()}
    assert usage == {b"a": 5, b"d": 20}  # what was denied is known all the same


def test_a_shadow_denies_nothing_and_counts_only_what_it_would_let_through(
    redis_url: str, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(6, 900), policy(2, 900, id=2, name="strict", enforced=False))
    limiter = Limiter(config(redis_url))
    decisions = [limiter.decide(ANYBODY) for _ in range(8)]
    assert [d.allowed for d in decisions] == [True] * 6 + [False] * 2
    assert [d.would_deny for d in decisions] == [()] * 2 + [("strict",)] * 6
    assert all({w.policy.id for w in d.windows} == {1} for d in decisions)
    totals = {key.split(b":")[2]: fields[b"t"] for key, fields in counters(redis_client).items()}
    assert totals == {b"1": b"6", b"2": b"2"}


def test_a_shadow_counts_on_its_own_where_the_enforced_limit_denies(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(1, 900), policy(3, 900, id=2, name="loose", enforced=False))
    limiter = Limiter(config(redis_url))
    decisions = [limiter.decide(ANYBODY) for _ in range(5)]
    assert [d.allowed for d in decisions] == [True, False, False, False, False]
    assert [d.would_deny for d in decisions] == [()] * 3 + [("loose",)] * 2


def test_a_shadow_beside_an_unlimited_subject_counts_and_denies_nothing(
    redis_url: str, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(None, 900, subject="robot"), policy(2, 900, id=2, name="trial", enforced=False))
    limiter = Limiter(config(redis_url))
    robot = replace(ANYBODY, subject="robot")
    decisions = [limiter.decide(robot) for _ in range(4)]
    assert [(d.allowed, d.source, d.windows) for d in decisions] == [(True, "none", ())] * 4
    assert [d.would_deny for d in decisions] == [(), (), ("trial",), ("trial",)]
    assert redis_client.exists(keys.usage(1)) == 0
    assert redis_client.exists(keys.usage(2)) == 1


def test_an_unlimited_subject_is_counted_nowhere_and_still_learns_of_an_edit(own: redis.Redis, own_url: str) -> None:
    put(own, 1, policy(None, 900))
    limiter = Limiter(config(own_url))
    assert limiter.decide(ANYBODY).source == "none"
    assert own.keys() == [keys.POLICY_SET.encode()]
    put(own, 2, policy(1, 900))
    assert [limiter.decide(ANYBODY).allowed for _ in range(2)] == [True, False]


# --- what it leaves in Redis ---------------------------------------------------------------------


@pytest.mark.parametrize("requests", [1000, 10_000])
def test_a_full_counter_takes_less_than_a_kilobyte(redis_client: redis.Redis, requests: int) -> None:
    replay = Replay(redis_client)
    for step in range(requests):
        replay.script(
            keys=[keys.POLICY_SET, "c", "u"],
            args=["0", 1, 1, 1, 1, requests, bucket_width(900), EPOCH + step * 900_000_000 // requests],
        )
    fields = redis_client.hgetall("c")
    assert int(fields[b"t"]) == requests
    assert sum(1 for name in fields if name.isdigit()) >= 60  # every sub-bucket is in use
    used = redis_client.memory_usage("c", samples=0)
    assert used is not None
    assert used < 1024


def milliseconds(client: redis.Redis) -> float:
    """The server's own clock."""
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds / 1000


def test_every_key_but_the_set_has_a_lifetime_that_outlasts_its_window(own: redis.Redis, own_url: str) -> None:
    put(own, 1, policy(50, 900, burst_requests=5, burst_window_seconds=10), policy(2, 3600, id=2, enforced=False))
    limiter = Limiter(config(own_url))
    begun = milliseconds(own)
    for number in range(12):
        limiter.decide(replace(ANYBODY, address=f"192.0.2.{number % 3}"))
    ended = milliseconds(own)
    for name in own.scan_iter():
        gone_at = own.pexpiretime(name)
        if name == keys.POLICY_SET.encode():
            assert gone_at == -1
            continue
        policy_id, burst = name.split(b":")[2], name.split(b":")[3:4] == [b"1"] and name.split(b":")[1] == b"c"
        window = 10_000 if burst else {b"1": 900_000, b"2": 3_600_000}[policy_id]
        assert begun + window < gone_at <= ended + window * 1.3


def test_a_counter_is_gone_soon_after_its_window(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(5, 7))
    limiter = Limiter(config(redis_url))
    begun = milliseconds(redis_client)
    assert counted(limiter, 5) == 5
    ended = milliseconds(redis_client)
    (name,) = redis_client.keys(f"{keys.TAG}:c:*")
    assert begun + 7000 <= redis_client.pexpiretime(name) <= ended + 7000 + 3 * 117


def test_no_key_and_no_value_names_a_person(own: redis.Redis, own_url: str) -> None:
    put(own, 1, *(policy(50, 900, id=n, key=k) for n, k in enumerate(("ip:user", "user", "ip", "user|ip"), 1)))
    limiter = Limiter(config(own_url))
    for policy_id in (1, 2, 3, 4):
        put(
            own,
            policy_id + 1,
            policy(50, 900, id=policy_id, key=("ip:user", "user", "ip", "user|ip")[policy_id - 1]),
        )
        limiter.decide(Asker("default", "alice@example.org", "198.51.100.77", "/secret/path"))
        limiter.decide(Asker("default", "", "2001:db8:77::/64", "/secret/path"))
    everything = b""
    for name in own.scan_iter():
        kind = own.type(name)
        content = repr(own.hgetall(name)) if kind == b"hash" else repr(own.get(name))
        everything += name + b" " + content.encode() + b"\n"
    assert everything.count(b":c:") == 8
    for trace in (b"alice", b"example.org", b"198.51", b"2001:db8", b"secret"):
        assert trace not in everything


# --- round trips ---------------------------------------------------------------------------------


def told(client: redis.Redis, act: Callable[[], object]) -> dict[str, list[str]]:
    """The commands in the own database while ``act`` ran: those of ``clients`` and those of ``scripts``."""
    commands: dict[str, list[str]] = {"clients": [], "scripts": []}
    with client.monitor() as monitor:
        client.echo("begin")
        act()
        client.echo("end")
        begun = False
        while True:
            seen = monitor.next_command()
            if seen["db"] != OWN_DATABASE:
                continue
            if seen["command"] == "ECHO end":
                assert begun
                return commands
            if begun:
                by = "scripts" if seen["client_type"] == "lua" else "clients"
                commands[by].append(seen["command"].split()[0].upper())
            begun = begun or seen["command"] == "ECHO begin"


def test_a_decision_is_one_command_and_nothing_else(own: redis.Redis, own_url: str) -> None:
    put(own, 1, policy(50, 900, burst_requests=40, burst_window_seconds=10), policy(5, 60, id=2, enforced=False))
    limiter = Limiter(config(own_url))
    counted(limiter, 3)
    allowed: list[int] = []
    assert told(own, lambda: allowed.append(counted(limiter, 60)))["clients"] == ["EVALSHA"] * 60
    assert allowed == [37]


def test_a_decision_in_an_old_sub_bucket_runs_few_commands_in_the_server(own: redis.Redis, own_url: str) -> None:
    put(own, 1, policy(1000, 86_400))
    limiter = Limiter(config(own_url))
    counted(limiter, 3)
    commands = told(own, lambda: counted(limiter, 100))
    assert commands["clients"] == ["EVALSHA"] * 100
    assert Counter(commands["scripts"]) == {"HGET": 100, "TIME": 100, "HMGET": 100, "HSET": 100, "HINCRBY": 100}
