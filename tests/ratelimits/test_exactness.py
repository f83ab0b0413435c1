"""Exact counts on a real Redis, from many threads, coroutines and processes at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from ratelimits.limiter import Limiter
from tests.ratelimits.limiting import ANYBODY, config, counted, counters, policy, put


class Workers:
    """The processes of ``tests.ratelimits.worker``, all waiting for the same word."""

    def __init__(self, order: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.ratelimits.worker", json.dumps(order)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def results(self) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = json.loads(self.process.communicate(timeout=60)[0])
        return results


@contextlib.contextmanager
def workers(processes: int, **order: Any) -> Iterator[Workers]:
    crew = Workers({"processes": processes, **order})
    try:
        yield crew
    finally:
        crew.process.kill()
        crew.process.communicate()


def test_eight_processes_with_a_hundred_threads_each_let_exactly_the_limit_through(
    redis_url: str, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(50, 900))
    with workers(8, url=redis_url, threads=100, calls=1) as crew:
        crew.tell()
        results = crew.results()
    decisions = [decision for result in results for decision in result["decisions"]]
    assert len(decisions) == 800
    assert {source for *_, source in decisions} == {"store"}  # not one store error
    assert {result["breaker"] for result in results} == {"closed"}
    assert sum(allowed for _, _, allowed, _ in decisions) == 50
    assert [fields[b"t"] for fields in counters(redis_client).values()] == [b"50"]


def test_a_hundred_coroutines_let_exactly_the_limit_through(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(50, 900))
    limiter = Limiter(config(redis_url))

    async def all_at_once() -> list[Any]:
        decisions = await asyncio.gather(*(limiter.adecide(ANYBODY) for _ in range(100)))
        await limiter.aclose()
        return decisions

    decisions = asyncio.run(all_at_once())
    assert {decision.source for decision in decisions} == {"store"}
    assert sum(decision.allowed for decision in decisions) == 50
    assert limiter.breaker_state == "closed"


def test_two_thousand_coroutines_of_one_moment_do_not_look_like_a_store_that_is_away(
    redis_server_factory: Callable[[], Any],
) -> None:
    server = redis_server_factory()  # its own: its clients are counted
    redis_client = server.client()
    put(redis_client, 1, policy(50, 900))
    limiter = Limiter(config(server.url))

    async def all_at_once() -> list[Any]:
        decisions = await asyncio.gather(*(limiter.adecide(ANYBODY) for _ in range(2000)))
        await limiter.aclose()
        return decisions

    decisions = asyncio.run(all_at_once())
    assert {decision.source for decision in decisions} == {"store"}
    assert sum(decision.allowed for decision in decisions) == 50
    assert redis_client.info("clients")["connected_clients"] < 10


def test_threads_and_two_event_loops_share_one_count(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(40, 900))
    limiter = Limiter(config(redis_url))
    outcomes: list[tuple[bool, str]] = []

    async def burst() -> None:
        for decision in await asyncio.gather(*(limiter.adecide(ANYBODY) for _ in range(30))):
            outcomes.append((decision.allowed, decision.source))
        await limiter.aclose()

    def calls() -> None:
        for _ in range(30):
            decision = limiter.decide(ANYBODY)
            outcomes.append((decision.allowed, decision.source))

    threads = [threading.Thread(target=work) for work in (calls, calls, *[lambda: asyncio.run(burst())] * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {source for _, source in outcomes} == {"store"}
    assert (len(outcomes), sum(allowed for allowed, _ in outcomes)) == (120, 40)


@pytest.mark.parametrize(("limit", "seconds"), [(7, 1), (40, 2)])
def test_no_window_holds_more_than_the_limit_in_real_time_and_waiting_as_told_is_enough(
    redis_url: str, redis_client: redis.Redis, limit: int, seconds: int
) -> None:
    put(redis_client, 1, policy(limit, seconds))
    limiter = Limiter(config(redis_url))
    lock, begun_and_ended, sources, start = threading.Lock(), [], set(), time.monotonic()

    def goes_on() -> bool:
        """Until the window has moved on, for which a machine that stands still needs longer."""
        passed = time.monotonic() - start
        return passed < seconds * 2.2 or (len(begun_and_ended) <= limit and passed < 60)

    def call(pause: float) -> None:
        while goes_on():
            began = time.monotonic()
            decision = limiter.decide(ANYBODY)
            ended = time.monotonic()
            with lock:
                sources.add(decision.source)
                if decision.allowed:
                    begun_and_ended.append((began, ended))
            time.sleep(pause)

    threads = [threading.Thread(target=call, args=(pause,)) for pause in (0.003, 0.011, 0.04)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sources == {"store"}
    assert len(begun_and_ended) > limit  # the window moved on
    for began, _ in begun_and_ended:
        # surely inside one window: begun not before its begin, ended before its end
        assert sum(began <= b and e <= began + seconds for b, e in begun_and_ended) <= limit

    while (decision := limiter.decide(ANYBODY)).allowed:
        pass
    wait = max(window.wait_us for window in decision.windows) / 1e6
    assert wait <= decision.retry_after_seconds < wait + 1
    time.sleep(wait)
    assert limiter.decide(ANYBODY).allowed


def test_once_a_save_has_returned_no_process_decides_by_the_old_version(
    redis_url: str, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(1_000_000, 900))
    published: dict[int, float] = {}
    with workers(8, url=redis_url, threads=2, pause=0.002) as crew:
        crew.tell()
        for version in range(2, 32):
            publication = put(redis_client, version, policy(1_000_000 + version, 900))
            published[version] = time.monotonic()
            assert publication.status == "in_force"
            time.sleep(0.05)
        crew.tell()
        results = crew.results()
    decisions = sorted(decision for result in results for decision in result["decisions"])
    assert {source for *_, source in decisions} == {"store"}
    assert [result["events"] for result in results] == [[]] * 8  # nobody put an older set back
    seen_by_all = set.intersection(*({d[1] for d in result["decisions"]} for result in results))
    assert len(seen_by_all) > 5  # the processes did decide while the set changed
    late = [
        (began, version)
        for began, version, *_ in decisions
        if any(version < newer and began > at for newer, at in published.items())
    ]
    assert late == []


def test_an_edited_limit_keeps_the_use_counted_so_far(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(10, 900))
    limiter = Limiter(config(redis_url))
    assert counted(limiter, 8) == 8
    put(redis_client, 2, policy(5, 900))
    decision = limiter.decide(ANYBODY)
    assert (decision.allowed, decision.version, decision.windows[0].used, decision.windows[0].limit) == (False, 2, 8, 5)
    put(redis_client, 3, policy(12, 900))
    assert counted(limiter, 10) == 4


def test_a_changed_window_carries_the_old_count_and_never_lets_more_than_the_new_limit_through(
    redis_url: str, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(10, 900))
    limiter = Limiter(config(redis_url))
    assert counted(limiter, 6) == 6
    put(redis_client, 2, policy(10, 3600))
    assert counted(limiter, 10) == 4
    put(redis_client, 3, policy(11, 60))
    decision = limiter.decide(ANYBODY)
    assert (decision.allowed, decision.windows[0].used, decision.windows[0].seconds) == (True, 11, 60)
    assert not limiter.decide(ANYBODY).allowed


def test_a_changed_key_begins_new_counts_and_a_changed_message_does_not(
    redis_url: str, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(5, 900))
    limiter = Limiter(config(redis_url))
    assert counted(limiter, 9) == 5
    put(redis_client, 2, policy(5, 900, message="Another one"))
    assert counted(limiter, 1) == 0
    put(redis_client, 3, policy(5, 900, key="ip"))
    assert counted(limiter, 9) == 5


def test_one_bucket_counts_over_all_routes_that_a_profile_covers(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(10, 900))
    limiter = Limiter(config(redis_url))
    through = 0
    for path in ("/a", "/b", "/c"):
        through += counted(limiter, 5, type(ANYBODY)(ANYBODY.role, ANYBODY.subject, ANYBODY.address, path))
    assert through == 10
