"""The middleware around a request: what is refused, with which words, and what is left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from controlplane.identity import roles
from controlplane.identity.tokens import issue
from controlplane.monitoring import pressure
from controlplane.monitoring.pressure import Pressure
from ratelimits.shedding import middleware as module
from ratelimits.shedding.controller import Caps
from ratelimits.shedding.middleware import SheddingMiddleware
from ratelimits.shedding.policy import BUILT_IN, Rank
from ratelimits.shedding.queue_wait import queue_wait_seconds, wait_since
from ratelimits.shedding.source import PolicySource
from tests.stopwatch import Stopwatch

TECH_LEAD = "AI Bridge/Tech Lead"
BODY = b'{"error": "SYSTEM_OVERLOADED", "message": "System under high load, please try again later", "retryAfter": 30}'


def get(path: str = "/zantara.unified", role: str = "", **meta: str) -> HttpRequest:
    if role:
        meta["HTTP_AUTHORIZATION"] = f"Bearer {issue('tester', role, 600)}"
    return RequestFactory().get(path, **meta)


@pytest.fixture(autouse=True)
def _seeds_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has learned of an earlier test's database is not asked."""
    monkeypatch.setattr(roles, "_source", None)


@pytest.fixture
def under(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the process under a pressure of the test's choice."""

    def put(memory: float = 10.0, connections: int = 5) -> None:
        monkeypatch.setattr(
            pressure, "current", lambda: Pressure(int(memory), 100, memory, connections, time.monotonic())
        )

    put()
    return put


@pytest.fixture
def sheds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    counted: list[tuple[str, str]] = []
    monkeypatch.setattr(module, "count_shed", lambda reason, role: counted.append((reason, role)))
    return counted


@pytest.fixture
def view() -> list[str]:
    return []


@pytest.fixture
def service(view: list[str]) -> SheddingMiddleware:
    def answer(request: HttpRequest) -> HttpResponse:
        view.append(request.path)
        return HttpResponse("served")

    return SheddingMiddleware(answer)


def bound(service: SheddingMiddleware, monkeypatch: pytest.MonkeyPatch, caps: Caps) -> None:
    """Bounds of the test's choice: without the watching thread, which would set its own within a tenth of a second."""
    monkeypatch.setattr(service.admission, "_start", lambda: None)
    service.admission.caps = caps


@pytest.mark.parametrize(("memory", "connections", "reason"), [(91.0, 5, "memory"), (10.0, 1001, "connections")])
def test_over_a_fixed_limit_the_seeds_body_is_answered_and_the_view_is_never_called(
    under: Callable[..., None],
    sheds: list[tuple[str, str]],
    service: SheddingMiddleware,
    view: list[str],
    memory: float,
    connections: int,
    reason: str,
) -> None:
    under(memory, connections)
    response = service(get(role="CEO"))
    assert (response.status_code, response.content) == (503, BODY)
    assert response["Content-Type"] == "application/json"
    assert response["Retry-After"] == "30"
    assert response["X-Zantara-Shed"] == "true"
    assert sheds == [(reason, "CEO")]
    assert view == []
    assert service.admission.in_hand == 0


def test_the_exempt_role_and_other_paths_are_served_over_the_fixed_limits(
    under: Callable[..., None], sheds: list[tuple[str, str]], service: SheddingMiddleware
) -> None:
    under(95.0, 2000)
    assert service(get(role=TECH_LEAD)).status_code == 200
    assert service(get("/vectors/export")).status_code == 200
    assert sheds == []


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/admin/", "/admin/x/", "/static/a.css"])
def test_those_who_look_after_the_service_are_never_shed(
    under: Callable[..., None], service: SheddingMiddleware, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    under(99.0, 5000)
    bound(service, monkeypatch, Caps(0, 0, 0, 0))
    assert service(get(path)).status_code == 200


def test_a_path_that_only_begins_like_an_exempt_one_is_not_exempt(
    under: Callable[..., None],
    sheds: list[tuple[str, str]],
    service: SheddingMiddleware,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound(service, monkeypatch, Caps(0, 0, 0, 0))
    assert service(get("/healthy")).status_code == 503
    assert sheds == [("in_flight", "default")]


def test_a_full_process_refuses_low_classes_and_serves_the_top_one(
    under: Callable[..., None],
    sheds: list[tuple[str, str]],
    service: SheddingMiddleware,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound(service, monkeypatch, Caps(top=6, below=1, low=0, total=1))
    assert service(get()).status_code == 503
    assert service(get(role="External")).status_code == 503
    assert service(get(role=TECH_LEAD)).status_code == 200
    assert service(get(role="CEO")).status_code == 200
    assert sheds == [("in_flight", "default"), ("in_flight", "External")]
    assert service.admission.in_hand == 0


def test_an_exception_gives_the_place_back(under: Callable[..., None]) -> None:
    def broken(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    service = SheddingMiddleware(broken)
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            service(get())
    assert service.admission.in_hand == 0


def test_an_async_service_delays_by_the_formula_and_sheds_as_well(
    under: Callable[..., None], sheds: list[tuple[str, str]]
) -> None:
    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse("served")

    service = SheddingMiddleware(answer)

    async def timed() -> tuple[int, float, float]:
        began = time.monotonic()
        with Stopwatch() as watch:
            response = await service(get())
        return response.status_code, time.monotonic() - began, watch.seconds

    under(80.0)
    status, waited, delayed = asyncio.run(timed())
    assert status == 200
    assert waited >= 0.1  # (80 − 75) × 20 ms
    assert delayed < 1.0
    under(91.0)
    status, *_ = asyncio.run(timed())
    assert status == 503
    assert sheds == [("memory", "default")]


def test_a_shed_costs_under_a_millisecond(under: Callable[..., None], service: SheddingMiddleware) -> None:
    under(95.0)
    request = get()
    service(request)

    def mean_seconds() -> float:
        began = time.thread_time()
        for _ in range(100):
            assert service(request).status_code == 503
        return (time.thread_time() - began) / 100

    assert min(mean_seconds() for _ in range(5)) < 0.001  # a busy machine's host counts what it withheld


def test_a_shed_is_counted_and_writes_no_line(
    under: Callable[..., None],
    service: SheddingMiddleware,
    sheds: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    under(memory=95.0)
    handler = BaseHandler()
    handler._middleware_chain = service
    assert handler.get_response(get()).status_code == 503
    assert sheds == [("memory", "default")]
    # A thread of this process asks the database for roles now and then, which a test without one forbids.
    assert [record for record in caplog.records if record.name != "controlplane.identity.roles"] == []


def test_a_policy_that_is_switched_off_sheds_nothing(
    under: Callable[..., None], service: SheddingMiddleware, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    under(99.0, 5000)
    monkeypatch.setattr(module, "current_policy", lambda: replace(BUILT_IN, active=False))
    assert service(get()).status_code == 200


NOW = 1_700_000_000.5


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("t=1700000000.25", 0.25),
        ("1700000000", 0.5),
        ("t=1700000000250", 0.25),
        ("t=1700000000250000", 0.25),
        ("t=1700000001", 0.0),  # two clocks
        ("t=1600000000", None),
        ("t=1700000900", None),
        ("yesterday", None),
        ("t=-1", None),
        ("t=" + "9" * 40, None),
        ("", None),
    ],
)
def test_the_start_of_a_request_is_read_in_seconds_milliseconds_and_microseconds(text: str, wait: float | None) -> None:
    assert wait_since(text, NOW) == (None if wait is None else pytest.approx(wait, abs=1e-6))


def test_only_a_trusted_proxys_word_on_the_wait_is_believed(settings: Any) -> None:
    begun = time.time()
    start = f"t={begun - 0.5:.3f}"
    assert queue_wait_seconds(get(HTTP_X_REQUEST_START=start, REMOTE_ADDR="10.0.0.1")) is None
    settings.ZANTARA_TRUSTED_PROXIES = "10.0.0.0/8"
    wait = queue_wait_seconds(get(HTTP_X_REQUEST_START=start, REMOTE_ADDR="10.0.0.1"))
    assert wait is not None
    assert 0.49 <= wait <= 0.51 + time.time() - begun
    assert queue_wait_seconds(get(HTTP_X_REQUEST_START=start, REMOTE_ADDR="192.0.2.1")) is None
    assert queue_wait_seconds(get(REMOTE_ADDR="10.0.0.1")) is None


def test_ranks_are_classes() -> None:
    assert Rank.LOW < Rank.MIDDLE < Rank.TOP


def test_a_service_learns_a_newer_policy_and_puts_back_what_redis_has_lost(redis_client: Any) -> None:
    from dataclasses import replace

    from ratelimits.shedding import publication

    source = PolicySource()
    source.look()
    assert source.policy == BUILT_IN
    newer = replace(BUILT_IN, version=3, lag_ms=50)
    assert publication.publish(redis_client, newer).status == "in_force"
    source.look()
    assert source.policy == newer
    older = replace(BUILT_IN, version=2)
    assert publication.publish(redis_client, older) == publication.Publication("superseded", 3)
    redis_client.flushdb()
    source.look()
    assert publication.read(redis_client) == newer
    redis_client.hset(publication.KEY, "set", "nonsense")
    source.look()
    assert source.policy == newer


def test_without_redis_the_known_policy_holds(settings: Any) -> None:
    settings.ZANTARA_REDIS_URL = "unix:///nonexistent/redis.sock?db=0"
    source = PolicySource()
    source.look()
    assert source.policy == BUILT_IN
