"""A store that is away: each fail mode answers in time, the breaker leaves the store alone, nobody gets an exception.

The time bounds here are generous, for busy machines; the real figures are in ``benchmarks/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelimits.limiter import Decision, Limiter, keys
from ratelimits.limiter.breaker import PROBE_EVERY_SECONDS
from ratelimits.limiter.local import LocalWindows
from tests.ratelimits.limiting import ANYBODY, config, counted, odd_server, policy, put
from tests.stopwatch import Stopwatch

#: As a service has it by default.
TIMEOUT_SECONDS = 0.045
BOUND_SECONDS = 0.25

Server = Callable[..., Any]


def timed(limiter: Limiter, times: int) -> list[Decision]:
    """Decide so often, each within the bound; one may be late, as a busy machine may hold up any thread once."""
    decisions, spent = [], []
    for _ in range(times):
        with Stopwatch() as watch:
            decisions.append(limiter.decide(ANYBODY))
        spent.append(watch.seconds)
    assert_in_time(spent)
    return decisions


async def atimed(limiter: Limiter, times: int) -> list[Decision]:
    """The same for async callers."""
    decisions, spent = [], []
    for _ in range(times):
        with Stopwatch() as watch:
            decisions.append(await limiter.adecide(ANYBODY))
        spent.append(watch.seconds)
    assert_in_time(spent)
    return decisions


def assert_in_time(spent: list[float]) -> None:
    assert sorted(spent)[-2] < BOUND_SECONDS
    assert max(spent) < 4 * BOUND_SECONDS


def informed(url: str, client: redis.Redis, *, timeout_seconds: float = TIMEOUT_SECONDS, **changes: Any) -> Limiter:
    """A limiter that has learned of the published set; unless told otherwise with a service's timeout."""
    put(client, 1, policy(8, 900, **changes))
    limiter = Limiter(config(url, timeout_seconds=timeout_seconds, processes=2))
    deadline = time.monotonic() + 10
    while (decision := limiter.decide(ANYBODY)).version != 1 or decision.source != "store":
        assert time.monotonic() < deadline
    limiter._local = LocalWindows()  # what it decided alone until then is none of its share
    return limiter


def recover(limiter: Limiter) -> None:
    """Ask until the store decides again. That it takes a second at most is the breaker's own test, on its own clock:
    on a busy machine a probe comes too late once."""
    deadline = time.monotonic() + 10
    while limiter.decide(ANYBODY).source != "store":
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def arecover(limiter: Limiter) -> None:
    """The same for async callers."""
    deadline = time.monotonic() + 10
    while (await limiter.adecide(ANYBODY)).source != "store":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


EXPECTED = {
    "open": (["open"] * 12, [True] * 12),
    "closed": (["closed"] * 12, [False] * 12),
    "local": (["local"] * 12, [True] * 4 + [False] * 8),  # 8 for two processes
}


@pytest.mark.parametrize("fail_mode", EXPECTED)
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_each_fail_mode_answers_in_time_and_the_store_decides_again_when_it_is_back(
    redis_server_factory: Server, how: str, fail_mode: str
) -> None:
    server = redis_server_factory()
    with server.client() as client:
        limiter = informed(server.url, client, fail_mode=fail_mode)
    if how == "killed":
        server.kill()
        with pytest.raises(redis.ConnectionError), server.client(socket_timeout=1) as client:
            client.ping()
    else:
        server.freeze()
        with pytest.raises(redis.TimeoutError), server.client(socket_timeout=0.05) as client:
            client.ping()
    decisions = timed(limiter, 12)
    assert ([d.source for d in decisions], [d.allowed for d in decisions]) == EXPECTED[fail_mode]
    assert {d.version for d in decisions} == {1}
    assert limiter.breaker_state == "open"
    server.start() if how == "killed" else server.thaw()
    recover(limiter)
    assert limiter.breaker_state == "closed"


def test_a_server_that_was_never_there_answers_by_the_seed(tmp_path: Any) -> None:
    limiter = Limiter(config(f"unix://{tmp_path}/none.sock", timeout_seconds=TIMEOUT_SECONDS))
    assert [d.source for d in timed(limiter, 5)] == ["open"] * 5
    assert limiter.breaker_state == "open"
    assert limiter.breaker.last_error == "ConnectionError"


@pytest.mark.parametrize(
    "answer",
    [None, b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"*1\r\n:1\r\n", b"HTTP/1.1 400 Bad\r\n\r\n",
     b"\x00\x01\x02", b"*4\r\n:1\r\n:2\r\n", b"-ERR no\r\n", b"*3\r\n$5\r\nstale\r\n:1\r\n:2\r\n",
     b"*4\r\n:1\r\n$1\r\na\r\n:1\r\n:1\r\n", b"-LOADING Redis is loading\r\n", b"-NOSCRIPT no\r\n",
     b"*4\r\n-ERR a\r\n:1\r\n:1\r\n:1\r\n"],
)  # fmt: skip
def test_a_server_that_says_nothing_or_nonsense_is_left_alone_after_three_errors(answer: bytes | None) -> None:
    with odd_server(answer) as server:
        limiter = Limiter(config(server.url, timeout_seconds=TIMEOUT_SECONDS))
        assert [d.source for d in timed(limiter, 3)] == ["open"] * 3
        assert limiter.breaker_state == "open"
        requests, connections = server.requests, server.connections
        assert requests >= 3
        began = time.monotonic()
        decisions = [limiter.decide(ANYBODY) for _ in range(200)]
        if time.monotonic() - began < PROBE_EVERY_SECONDS * 0.9:
            assert (server.requests, server.connections) == (requests, connections)  # the socket was not touched
        assert {d.source for d in decisions} == {"open"}


@pytest.mark.parametrize("answer", [None, b"+OK\r\n", b":1\r\n", b"\x00\x01", b"*4\r\n:1\r\n:1\r\n:1\r\n:0\r\n" * 3])
def test_async_callers_get_the_same_from_a_server_that_makes_no_sense(answer: bytes | None) -> None:
    async def calls(limiter: Limiter) -> list[str]:
        decisions = await atimed(limiter, 5)
        await limiter.aclose()
        return [decision.source for decision in decisions]

    with odd_server(answer) as server:
        limiter = Limiter(config(server.url, timeout_seconds=TIMEOUT_SECONDS))
        sources = asyncio.run(calls(limiter))
        assert server.connections >= 1
    assert set(sources) <= {"open", "store"}
    if answer is None or len(answer) < 10:
        assert sources == ["open"] * 5
        assert limiter.breaker_state == "open"


@pytest.mark.parametrize("fail_mode", EXPECTED)
def test_async_callers_survive_a_frozen_store_and_see_it_come_back(
    redis_server_factory: Server, fail_mode: str
) -> None:
    server = redis_server_factory()
    with server.client() as client:
        limiter = informed(server.url, client, fail_mode=fail_mode)

    async def calls() -> list[Decision]:
        await arecover(limiter)  # its first connection may come too late on a busy machine
        limiter._local = LocalWindows()
        server.freeze()
        decisions = await atimed(limiter, 12)
        assert limiter.breaker_state == "open"
        server.thaw()
        await arecover(limiter)
        assert limiter.breaker_state == "closed"
        await limiter.aclose()
        return decisions

    decisions = asyncio.run(calls())
    assert ([d.source for d in decisions], [d.allowed for d in decisions]) == EXPECTED[fail_mode]


def test_a_hundred_coroutines_before_a_silent_server_all_answer_in_time() -> None:
    with odd_server(None) as server:
        limiter = Limiter(config(server.url, timeout_seconds=TIMEOUT_SECONDS))

        async def calls() -> list[Decision]:
            with Stopwatch() as watch:
                decisions = await asyncio.gather(*(limiter.adecide(ANYBODY) for _ in range(100)))
            assert watch.seconds < 4 * BOUND_SECONDS
            await limiter.aclose()
            return decisions

        assert {d.source for d in asyncio.run(calls())} == {"open"}
        assert server.connections == 1


def test_a_full_server_that_takes_no_writes_means_the_fail_mode(redis_server_factory: Server) -> None:
    server = redis_server_factory()
    with server.client() as client:
        limiter = informed(server.url, client, timeout_seconds=5, fail_mode="open")
        client.set("filler", b"x" * 2_000_000)
        client.config_set("maxmemory", "1mb")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("more", "x")
        assert [d.source for d in timed(limiter, 5)] == ["open"] * 5
        assert limiter.breaker.last_error == "OutOfMemoryError"
        client.config_set("maxmemory", "0")
    recover(limiter)


def test_a_replica_that_takes_no_writes_means_the_fail_mode(redis_server_factory: Server, tmp_path: Any) -> None:
    server = redis_server_factory()
    with server.client() as client:
        limiter = informed(server.url, client, fail_mode="closed")
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(redis.exceptions.ReadOnlyError):
            client.set("more", "x")
        assert [d.source for d in timed(limiter, 5)] == ["closed"] * 5
        client.replicaof("NO", "ONE")
    recover(limiter)


def test_a_restarted_redis_costs_nobody_a_decision(redis_server_factory: Server) -> None:
    server = redis_server_factory()
    with server.client() as client:
        limiter = informed(server.url, client)
    for _ in range(3):
        server.kill()
        server.start()
        limiter.decide(ANYBODY)  # a busy machine may need longer than the limiter has
        recover(limiter)
        with server.client() as client:
            assert client.hget(keys.POLICY_SET, "tag") is not None  # the service put the set back


def test_a_connection_that_the_server_closed_is_opened_again_within_the_decision(
    redis_server_factory: Callable[[], Any],
) -> None:
    server = redis_server_factory()  # its own: on the shared one the clients of other tests would be closed too
    redis_client = server.client()
    put(redis_client, 1, policy(50, 900))
    limiter = Limiter(config(server.url))
    assert counted(limiter, 2) == 2
    for _ in range(3):
        assert int(redis_client.client_kill_filter(_type="normal", skipme=True)) >= 1
        assert counted(limiter, 2) == 2
    assert limiter.breaker_state == "closed"


def test_an_async_connection_that_the_server_closed_is_opened_again(redis_server_factory: Callable[[], Any]) -> None:
    server = redis_server_factory()
    redis_client = server.client()
    put(redis_client, 1, policy(50, 900))
    limiter = Limiter(config(server.url))

    async def calls() -> list[str]:
        sources = []
        for _ in range(3):
            sources.append((await limiter.adecide(ANYBODY)).source)
            assert int(redis_client.client_kill_filter(_type="normal", skipme=True)) >= 1
            sources.append((await limiter.adecide(ANYBODY)).source)
            await asyncio.sleep(0)
        await limiter.aclose()
        return sources

    assert asyncio.run(calls()) == ["store"] * 6
    assert limiter.breaker_state == "closed"


def test_an_async_caller_who_gives_up_leaves_the_others_their_own_answers(
    redis_url: str, redis_client: redis.Redis
) -> None:
    put(redis_client, 1, policy(50, 900))
    limiter = Limiter(config(redis_url))

    async def calls() -> list[int]:
        await limiter.adecide(ANYBODY)
        tasks = [asyncio.create_task(limiter.adecide(ANYBODY)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await limiter.aclose()
        return [answer.windows[0].used for answer in answers if isinstance(answer, Decision)]

    assert asyncio.run(calls()) == list(range(3, 23, 2))


def test_an_event_loop_that_was_held_up_is_no_store_that_is_away(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(50, 900))
    limiter = Limiter(config(redis_url, timeout_seconds=0.3))

    async def calls() -> str:
        await limiter.adecide(ANYBODY)
        task = asyncio.create_task(limiter.adecide(ANYBODY))
        await asyncio.sleep(0)
        time.sleep(0.5)  # somebody's blocking view; the answer is there, nobody has read it
        decision = await task
        await limiter.aclose()
        return decision.source

    assert asyncio.run(calls()) == "store"


def test_one_limiter_serves_event_loops_one_after_another(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(50, 900))
    limiter = Limiter(config(redis_url))

    async def call() -> tuple[str, int]:
        decision = await limiter.adecide(ANYBODY)
        return decision.source, decision.windows[0].used

    assert [asyncio.run(call()) for _ in range(5)] == [("store", n) for n in range(1, 6)]
    gc.collect()
    assert len(limiter._astore._lines) == 0  # a loop that is gone leaves nothing behind


def test_parent_and_child_of_a_fork_never_read_each_others_answers(redis_url: str, redis_client: redis.Redis) -> None:
    put(redis_client, 1, policy(1000, 900))
    limiter = Limiter(config(redis_url))
    mine, other = ANYBODY, type(ANYBODY)(ANYBODY.role, "", "198.51.100.9", "/")
    assert counted(limiter, 1, mine) == 1
    child = os.fork()
    if child == 0:  # the child counts its own caller and says by its exit code whether the numbers were right
        used = [limiter.decide(other).windows[0].used for _ in range(300)]
        os._exit(0 if used == list(range(1, 301)) else 1)
    used = [limiter.decide(mine).windows[0].used for _ in range(300)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert used == list(range(2, 302))


def test_a_shadow_and_an_unlimited_caller_are_let_through_while_the_store_is_away(tmp_path: Any) -> None:
    limiter = Limiter(config(f"unix://{tmp_path}/none.sock", timeout_seconds=TIMEOUT_SECONDS))
    for kept in (policy(None, 900, fail_mode="closed"), policy(1, 900, fail_mode="closed", enforced=False)):
        limiter._policies = type(limiter._policies)(1, (kept,))
        assert [(d.allowed, d.source) for d in timed(limiter, 3)] == [(True, "none")] * 3


def test_the_local_share_tells_the_truth_about_itself(tmp_path: Any) -> None:
    limiter = Limiter(config(f"unix://{tmp_path}/none.sock", timeout_seconds=TIMEOUT_SECONDS, processes=4))
    kept = policy(13, 900, fail_mode="local", burst_requests=100, burst_window_seconds=10)
    limiter._policies = type(limiter._policies)(1, (kept,))
    decisions = timed(limiter, 4)
    assert [d.allowed for d in decisions] == [True] * 3 + [False]
    assert [(w.limit, w.used) for w in decisions[2].windows] == [(3, 3), (25, 3)]
    assert all(0 < w.reset_us <= 61 / 60 * w.seconds * 1_000_000 for d in decisions for w in d.windows)
    assert [w.wait_us > 0 for w in decisions[3].windows] == [True, False]
    assert 900 <= decisions[3].retry_after_seconds <= 916


def test_a_full_queue_of_a_unix_socket_is_waited_for_and_is_no_store_that_is_away(tmp_path: Any) -> None:
    path, at = tmp_path / "narrow.sock", b"*4\r\n:1\r\n:1\r\n:1\r\n:0\r\n"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as cleanup:
        listener.bind(str(path))
        listener.listen(0)
        waiting: list[socket.socket] = []

        def fill() -> None:
            for _ in range(10):
                waiting.append(cleanup.enter_context(socket.socket(socket.AF_UNIX)))
                waiting[-1].settimeout(1)
                waiting[-1].connect(str(path))

        with pytest.raises(BlockingIOError):
            fill()

        def serve() -> None:
            time.sleep(0.05)
            while True:
                peer = cleanup.enter_context(listener.accept()[0])
                if peer.recv(65536):
                    peer.sendall(at)
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        for peer in waiting:
            peer.close()
        limiter = Limiter(config(f"unix://{path}"))
        assert limiter.decide(ANYBODY).source == "store"
        thread.join()
        limiter._store.close()
