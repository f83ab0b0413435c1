"""Chaos: ordered from this machine, obeyed by every process of one release, over when it is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import redis

from examples.zantara import chaos, redis_store
from examples.zantara.chaos import CALM, Chaos, ChaosOrders, Obedience
from tests.stack import wait_for
from tests.stopwatch import Stopwatch
from tests.zantara.conftest import Running
from tests.zantara.test_endpoints import problem

Bearer = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def _calm_again(redis_client: redis.Redis) -> Iterator[None]:
    """Processes outlive a test, and so would what they obey."""
    yield
    ordered = redis_client.keys("zantara:chaos:*")
    redis_client.flushdb()
    time.sleep(20 * chaos.POLL_SECONDS if ordered else chaos.SPREAD_SECONDS)


CALMED = "error_rate=0.0 latency_ms=0.0 leak_mb=0"


def obeyed(service: Running, says: str, method: str = "POST", **order: float) -> Any:
    """Order, and wait until both processes say in the log that they obey: a busy machine may keep one from it."""

    def changes() -> int:
        return sum("chaos_changed" in line and says in line for line in service.log.read_text().splitlines())

    before = changes()
    answer = service.request(method, "/_chaos", json=order)
    wait_for(lambda: changes() >= before + 2, 30, "both processes obey")
    time.sleep(chaos.POLL_SECONDS)  # it is said just before it is done
    return answer


def test_errors_are_real_and_come_from_every_process_of_the_release_alone(
    service: Running, other: Running, bearer: Bearer
) -> None:
    ordered = obeyed(service, "error_rate=1.0", error_rate=1)
    expires = ordered.json().pop("expires_in_seconds")
    assert ordered.json() == {
        "release": "1",
        "in_force": True,
        "error_rate": 1.0,
        "latency_ms": 0.0,
        "leak_mb": 0,
        "expires_in_seconds": expires,
    }
    assert 3590 <= expires <= 3600
    answers = [service.get("/zantara.unified", headers=bearer()) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {500}
    assert "ChaosError" not in answers[0].text
    assert answers[0].headers["content-type"] == "application/problem+json"
    assert other.get("/zantara.unified").status_code == 200
    assert other.get("/_chaos").json()["in_force"] is False
    for path in ("/livez", "/readyz", "/_chaos"):
        assert service.get(path).status_code == 200
    assert obeyed(service, CALMED, "DELETE").json()["in_force"] is False
    assert {service.get("/zantara.unified", headers=bearer()).status_code for _ in range(20)} == {200}


def test_a_share_of_requests_fails(service: Running, bearer: Bearer) -> None:
    obeyed(service, "error_rate=0.5", error_rate=0.5)
    failed = sum(service.get("/zantara.unified", headers=bearer()).status_code == 500 for _ in range(120))
    assert 30 < failed < 90  # outside in one of ten million runs


def test_latency_is_a_real_wait(service: Running) -> None:
    obeyed(service, "latency_ms=300.0", latency_ms=300)
    for _ in range(3):
        begun = time.monotonic()
        with Stopwatch() as watch:
            assert service.get("/zantara.unified").status_code == 200
        assert time.monotonic() - begun >= 0.3
        assert watch.seconds < 2
    with Stopwatch() as watch:
        assert service.get("/livez").status_code == 200
    assert watch.seconds < 0.3


def test_every_process_leaks_and_gives_back(service: Running) -> None:
    def resident() -> list[int]:
        return [psutil.Process(pid).memory_info().rss for pid in sorted(service.worker_pids)]

    before = resident()
    assert len(before) == 2
    service.request("POST", "/_chaos", json={"leak_mb": 64})
    deadline = time.monotonic() + 30
    while any(now - then < 60 * 2**20 for now, then in zip(resident(), before, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    service.request("DELETE", "/_chaos")
    deadline = time.monotonic() + 30
    while any(now - then > 10 * 2**20 for now, then in zip(resident(), before, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_only_the_resolved_client_on_this_machine_may_order(
    service: Running, bearer: Bearer, redis_client: redis.Redis, method: str
) -> None:
    away = {"X-Forwarded-For": "203.0.113.7", **bearer()}
    refused = service.request(method, "/_chaos", json={"error_rate": 1}, headers=away)
    assert "from this machine only" in problem(refused, 403)
    assert redis_client.exists("zantara:chaos:1") == 0


def test_a_forged_hop_before_a_trusted_proxy_gives_no_rights(service: Running) -> None:
    forged = service.get("/_chaos", headers={"X-Forwarded-For": "127.0.0.1, 203.0.113.7"})
    assert forged.status_code == 403


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({"error_rate": 1.01}, "error_rate must be a number. Choose one from 0 to 1."),
        ({"error_rate": -0.1}, "error_rate must be"),
        ({"error_rate": True}, "error_rate must be"),
        ({"error_rate": "1"}, "error_rate must be"),
        ({"latency_ms": 60001}, "latency_ms must be"),
        ({"latency_ms": -1}, "latency_ms must be"),
        ({"leak_mb": 1025}, "leak_mb must be a whole number. Choose one from 0 to 1024."),
        ({"leak_mb": 0.5}, "leak_mb must be"),
        ({"errors": 1}, "no parameter 'errors'"),
        ([], "not a JSON object"),
    ],
)
def test_an_order_out_of_range_is_refused(
    service: Running, redis_client: redis.Redis, order: object, says: str
) -> None:
    assert says in problem(service.request("POST", "/_chaos", json=order), 400)
    assert redis_client.exists("zantara:chaos:1") == 0


def test_a_new_order_is_complete_in_itself(service: Running) -> None:
    service.request("POST", "/_chaos", json={"error_rate": 1})
    order = service.request("POST", "/_chaos", json={"latency_ms": 5}).json()
    assert (order["error_rate"], order["latency_ms"]) == (0.0, 5.0)


def test_chaos_is_steered_even_by_a_caller_at_his_limit(service: Running) -> None:
    while service.get("/zantara.unified").status_code == 200:
        pass
    assert service.get("/zantara.unified").status_code == 429
    assert service.request("DELETE", "/_chaos").status_code == 200


def test_an_order_ends_by_itself(redis_url: str, redis_client: redis.Redis) -> None:
    with redis_store.connect(redis_url) as client:
        orders = ChaosOrders(client, "7")
        orders.give(Chaos(error_rate=0.5))
        assert 3590 < redis_client.ttl("zantara:chaos:7") <= 3600
        redis_client.pexpire("zantara:chaos:7", 1)
        time.sleep(0.01)
        obedience = Obedience(orders)
        obedience.chaos = Chaos(error_rate=0.5)
        obedience.follow()
        assert obedience.chaos == CALM


def test_a_key_that_somebody_else_wrote_is_calm(redis_url: str, redis_client: redis.Redis) -> None:
    with redis_store.connect(redis_url) as client:
        for nonsense in (b"{", b"[1]", b'"x"', json.dumps({"error_rate": 9}).encode(), b"null"):
            redis_client.set("zantara:chaos:7", nonsense)
            assert ChaosOrders(client, "7").show() == (CALM, 0)


def test_without_redis_the_last_order_holds_no_longer_than_it_would_have(redis_server_factory: Callable) -> None:  # type: ignore[type-arg]
    server = redis_server_factory()
    with redis_store.connect(server.url) as client:
        orders = ChaosOrders(client, "1")
        orders.give(Chaos(latency_ms=1))
        client.expire("zantara:chaos:1", 5)
        obedience = Obedience(orders)
        obedience.follow()
        server.kill()
        obedience.follow()
        assert obedience.chaos == Chaos(latency_ms=1)
        time.sleep(5.1)
        obedience.follow()
        assert obedience.chaos == CALM
