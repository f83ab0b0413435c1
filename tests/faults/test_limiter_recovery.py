"""The limiter while its Redis is killed, frozen, restored from an old snapshot and restarted under load."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelimits.limiter import Decision, Limiter
from ratelimits.limiter.breaker import PROBE_EVERY_SECONDS, THRESHOLD
from ratelimits.limiter.publication import tag_in_force, version_of
from ratelimits.limiter.store import Call
from tests.ratelimits.limiting import ANYBODY, config, counted, policy, put
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.faults

Server = Callable[..., Any]


class Load:
    """Threads that decide all the time and keep every answer, every exception and every duration."""

    def __init__(self, limiter: Limiter, threads: int = 4) -> None:
        self.decisions: list[tuple[float, Decision]] = []
        self.errors: list[BaseException] = []
        self.spent: list[float] = []
        self._limiter, self._stop = limiter, threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]

    def _work(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                decision = self._limiter.decide(ANYBODY)
            except BaseException as error:  # noqa: BLE001  (what this class exists to find)
                self.errors.append(error)
                return
            self.spent.append(time.monotonic() - began)
            self.decisions.append((began, decision))
            self._stop.wait(0.002)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def sources(self, since: float) -> set[str]:
        return {decision.source for began, decision in list(self.decisions) if began >= since}

    def wait_for(self, source: str, since: float, within: float) -> float:
        """Seconds from ``since`` until a decision of this source began."""
        while time.monotonic() < since + within:
            found = [began for began, decision in list(self.decisions) if began >= since and decision.source == source]
            if found:
                return min(found) - since
            time.sleep(0.005)
        raise AssertionError(f"no decision came from {source} within {within} s")


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("fail_mode", ["open", "closed", "local"])
def test_three_losses_under_load_end_in_no_exception_and_are_over_soon(
    redis_server_factory: Server, how: str, fail_mode: str
) -> None:
    server = redis_server_factory()
    with server.client() as client:
        put(client, 3, policy(1_000_000, 900, fail_mode=fail_mode))
    limiter = Limiter(config(server.url, timeout_seconds=0.045))
    with Load(limiter) as load:
        load.wait_for("store", time.monotonic(), 30)
        for _ in range(3):
            server.kill() if how == "killed" else server.freeze()
            lost_at = time.monotonic()
            load.wait_for(fail_mode, lost_at, 10)  # the fault has fired
            time.sleep(0.7)
            settled_at = time.monotonic() - 0.2
            load.wait_for(fail_mode, settled_at, 10)  # a busy machine may have let nobody ask for so long
            assert load.sources(settled_at) == {fail_mode}
            assert limiter.breaker_state != "closed"
            server.start() if how == "killed" else server.thaw()
            # The breaker's unit test holds it to one second on a clock of its own; here each prober that a busy machine
            # keeps from its 45 ms costs another half second.
            load.wait_for("store", time.monotonic(), 10)
    assert load.errors == []
    assert {decision.version for _, decision in load.decisions[-100:]} == {3}
    in_order = sorted(load.spent)  # a busy machine may keep a thread from running for longer than all time limits
    assert in_order[int(len(in_order) * 0.99)] < 0.1
    assert in_order[-1] < 10
    with server.client() as client:
        assert version_of(tag_in_force(client) or "") == 3


def test_a_service_overrules_an_old_snapshot_with_the_newer_set_that_it_knows(redis_server_factory: Server) -> None:
    server = redis_server_factory()
    with server.client() as client:
        put(client, 5, policy(50, 900))
        client.save()
        old = server.folder / "old.rdb"
        shutil.copy(server.folder / "dump.rdb", old)
        put(client, 6, policy(7, 900))
        limiter = Limiter(config(server.url))
        assert counted(limiter, 3) == 3
        assert limiter.policies.version == 6
    server.kill()
    shutil.copy(old, server.folder / "dump.rdb")
    server.start()
    with server.client() as client:
        assert version_of(tag_in_force(client) or "") == 5  # the fault has fired: the old set is back
        decision = limiter.decide(ANYBODY)
        assert (decision.source, decision.version, decision.windows[0].limit) == ("store", 6, 7)
        assert version_of(tag_in_force(client) or "") == 6
        assert Limiter(config(server.url)).decide(ANYBODY).version == 6


def test_flushes_and_forgotten_scripts_under_load_are_no_errors(redis_server_factory: Server) -> None:
    server = redis_server_factory()
    with server.client() as client:
        put(client, 4, policy(1_000_000, 900))
        limiter = Limiter(config(server.url))
        with Load(limiter) as load:
            load.wait_for("store", time.monotonic(), 5)
            began = time.monotonic()
            for _ in range(50):
                client.flushall()
                client.script_flush()
                time.sleep(0.01)
        assert client.info("commandstats")["cmdstat_script|flush"]["calls"] == 50
        assert client.info("commandstats")["cmdstat_eval"]["calls"] >= 25  # the scripts were forgotten and loaded again
        assert load.errors == []
        assert load.sources(began) == {"store"}
        assert {decision.version for began_at, decision in load.decisions if began_at >= began} == {4}
        assert limiter.breaker_state == "closed"


def test_a_frozen_store_holds_up_only_those_who_find_it_so(
    redis_server_factory: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = redis_server_factory()
    with server.client() as client:
        put(client, 1, policy(1_000_000, 900, fail_mode="open"))
    limiter = Limiter(config(server.url, timeout_seconds=0.045))
    deadline = time.monotonic() + 30
    while limiter.decide(ANYBODY).source != "store":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.freeze()
    with pytest.raises(redis.TimeoutError), server.client(socket_timeout=0.05) as client:
        client.ping()
    held_up: list[Stopwatch] = []
    ask = limiter._store.run

    def asked(call: Call) -> Any:
        with Stopwatch() as watch:
            held_up.append(watch)
            return ask(call)

    monkeypatch.setattr(limiter._store, "run", asked)
    decisions, began = 0, time.monotonic()
    while time.monotonic() < began + 3:
        assert limiter.decide(ANYBODY).source == "open"
        decisions += 1
        time.sleep(0.001)
    elapsed = time.monotonic() - began
    # three to open the breaker, then one prober each half second; all others ask nobody
    assert THRESHOLD <= len(held_up) <= THRESHOLD + elapsed / PROBE_EVERY_SECONDS + 1
    assert decisions > len(held_up)
    assert max(watch.seconds for watch in held_up) < 0.25
    server.thaw()
