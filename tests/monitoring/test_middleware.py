"""Every answer is measured, counted once, and gives its slot back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import structlog
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path

from controlplane.identity import roles
from controlplane.identity.tokens import issue
from controlplane.monitoring import live_slots
from controlplane.monitoring.exposition import exposition
from controlplane.monitoring.metrics import name_handler
from controlplane.monitoring.middleware import MonitoringMiddleware
from tests.monitoring.counting import value

MIDDLEWARE = [
    "controlplane.monitoring.middleware.MonitoringMiddleware",
    "controlplane.identity.middleware.IdentityMiddleware",
]
_grown: list[bytes] = []


def plain(request: HttpRequest, number: int = 0) -> HttpResponse:
    assert live_slots.here() == 1
    return HttpResponse("plain")


def keyed(request: HttpRequest) -> HttpResponse:
    name_handler(request, "echo")
    return HttpResponse("keyed")


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


def slow(request: HttpRequest) -> HttpResponse:
    time.sleep(0.02)
    return HttpResponse("slow")


def sluggish(request: HttpRequest) -> HttpResponse:
    time.sleep(0.6)
    return HttpResponse("sluggish")


def large(request: HttpRequest) -> HttpResponse:
    _grown.append(b"x" * 30_000_000)
    return HttpResponse("large")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        yield b"a"
        time.sleep(0.12)
        yield b"b"

    return StreamingHttpResponse(parts())


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))  # noqa: PTH123  (the answer closes it)


async def swift(request: HttpRequest) -> HttpResponse:
    return HttpResponse("swift")


async def gone(request: HttpRequest) -> HttpResponse:
    raise asyncio.CancelledError


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    return StreamingHttpResponse(parts())


VIEWS: dict[str, Callable[..., Any]] = {
    view.__name__: view for view in (plain, keyed, broken, slow, sluggish, large, stream, file, swift, gone, astream)
}
urlpatterns = [
    *(path(f"toy/{name}", view) for name, view in VIEWS.items()),
    path("toy/<int:number>/plain", plain),
]


@pytest.fixture
def service(settings: Any) -> Client:
    settings.MIDDLEWARE, settings.ROOT_URLCONF = MIDDLEWARE, __name__
    settings.DEBUG = False
    return Client(raise_request_exception=False)


@pytest.fixture
def aservice(service: Client) -> AsyncClient:
    return AsyncClient(raise_request_exception=False)


def close(answer: Any) -> None:
    """What the server does at the end, without Django's signal, which looks at the database."""
    for closer in answer._resource_closers:
        closer()


def counted(**labels: str) -> float:
    return value(exposition()[0], "zantara_requests_total", **labels)


def timed(**labels: str) -> float:
    return value(exposition()[0], "zantara_request_duration_seconds_count", **labels)


def test_each_answer_says_how_long_it_took_and_what_it_cost(service: Client) -> None:
    for where, status in {"/toy/plain": 200, "/toy/nothing": 404, "/toy/broken": 500}.items():
        answer = service.get(where)
        assert answer.status_code == status
        assert answer.headers["X-Response-Time"].removesuffix("ms").isdigit()
        assert int(answer.headers["X-Memory-Delta"].removesuffix("KB")) < 100_000
    refused = service.get("/toy/plain", headers={"authorization": "Bearer nonsense"})
    assert refused.status_code == 401
    assert {"X-Response-Time", "X-Memory-Delta"} <= set(refused.headers)
    assert live_slots.here() == 0


def test_the_time_is_the_time(service: Client) -> None:
    assert 20 <= int(service.get("/toy/slow").headers["X-Response-Time"].removesuffix("ms")) < 2000


def test_a_request_is_counted_once_with_its_labels(service: Client) -> None:
    before = counted(route="/toy/<int:number>/plain")
    for number in range(3):
        service.get(f"/toy/{number}/plain")
    labels = {"method": "GET", "status": "200", "user_role": "anonymous", "handler": "unknown"}
    assert counted(route="/toy/<int:number>/plain", **labels) == before + 3
    assert timed(route="/toy/<int:number>/plain", method="GET", handler="unknown") == before + 3


def test_an_exception_is_counted_once(service: Client) -> None:
    before = counted(route="/toy/broken")
    assert service.get("/toy/broken").status_code == 500
    assert counted(route="/toy/broken") == counted(route="/toy/broken", status="500") == before + 1
    assert timed(route="/toy/broken") == before + 1


def test_an_exception_that_django_lets_through_is_counted_once_and_let_through(rf: RequestFactory) -> None:
    def raising(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    before = counted(route="<unmatched>", status="500")
    with pytest.raises(ZeroDivisionError):
        MonitoringMiddleware(raising)(rf.get("/nowhere"))
    assert counted(route="<unmatched>", status="500") == before + 1
    assert live_slots.here() == 0


def test_the_handler_is_the_one_that_the_service_names(service: Client) -> None:
    service.post("/toy/keyed", '{"key": "made up"}', content_type="application/json")
    assert counted(route="/toy/keyed", method="POST", handler="echo") == 1
    assert counted(route="/toy/keyed", handler="made up") == 0


def test_the_role_is_the_callers(service: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "_source", None)  # the seed's: a test before may have known none for ten seconds
    before = counted(route="/toy/plain", user_role="CEO")
    for role in ("CEO", "Somebody nobody knows"):
        service.get("/toy/plain", headers={"authorization": f"Bearer {issue('anna', role, 60)}"})
    assert counted(route="/toy/plain", user_role="CEO") == before + 1
    assert counted(user_role="Somebody nobody knows") == 0
    assert counted(route="/toy/plain", user_role="default") == 1


def test_a_stream_is_timed_to_its_end_and_holds_its_slot_until_then(service: Client) -> None:
    answer = service.get("/toy/stream")
    assert live_slots.here() == 1
    assert counted(route="/toy/stream") == 0
    assert b"".join(answer.streaming_content) == b"ab"
    assert live_slots.here() == 0
    assert counted(route="/toy/stream", status="200") == 1
    text = exposition()[0]
    assert value(text, "zantara_request_duration_seconds_bucket", route="/toy/stream", le="0.1") == 0
    close(answer)
    assert counted(route="/toy/stream") == 1


def test_a_stream_that_is_abandoned_gives_its_slot_back(service: Client) -> None:
    answer = service.get("/toy/stream")
    next(iter(answer.streaming_content))
    close(answer)
    assert live_slots.here() == 0


def test_a_file_gives_its_slot_back_when_it_is_closed(service: Client) -> None:
    answer = service.get("/toy/file")
    assert live_slots.here() == 1
    close(answer)
    assert (live_slots.here(), counted(route="/toy/file")) == (0, 1)


def test_slow_and_large_requests_are_warned_of_once(service: Client, settings: Any) -> None:
    settings.ZANTARA_SLOW_REQUEST_SECONDS, settings.ZANTARA_LARGE_REQUEST_BYTES = 0.5, 20_000_000
    service = Client()  # the first request builds the middleware anew
    with structlog.testing.capture_logs() as logs:
        service.get("/toy/plain")
        service.get("/toy/sluggish")
        service.get("/toy/large")
    found = [(entry["event"], entry["route"]) for entry in logs if entry["event"] in ("slow_request", "large_request")]
    assert found.count(("slow_request", "/toy/sluggish")) == 1
    assert found.count(("large_request", "/toy/large")) == 1
    assert not [event for event, route in found if route == "/toy/plain"]
    _grown.clear()


def test_a_large_body_is_warned_of(service: Client) -> None:
    with structlog.testing.capture_logs() as logs:
        service.generic("POST", "/toy/swift", b"x", CONTENT_LENGTH="10000001")
        service.generic("POST", "/toy/swift", b"x", CONTENT_LENGTH="nonsense")
    assert [entry["body_bytes"] for entry in logs if entry["event"] == "large_request"] == [10_000_001]


async def _aget(client: AsyncClient, where: str) -> Any:
    return await client.get(where)


def test_async_views_are_measured_without_leaving_the_loop(aservice: AsyncClient) -> None:
    before = counted(route="/toy/swift")
    answer = asyncio.run(_aget(aservice, "/toy/swift"))
    assert (answer.status_code, answer.content) == (200, b"swift")
    assert {"X-Response-Time", "X-Memory-Delta"} <= set(answer.headers)
    assert counted(route="/toy/swift") == before + 1
    assert live_slots.here() == 0


def test_a_client_that_went_away_is_counted_as_such(rf: RequestFactory) -> None:
    async def cancelled(request: HttpRequest) -> HttpResponse:
        raise asyncio.CancelledError

    async def ask() -> None:
        await MonitoringMiddleware(cancelled)(rf.get("/"))

    before = counted(status="499")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ask())
    assert (counted(status="499"), live_slots.here()) == (before + 1, 0)


def test_an_async_stream_gives_its_slot_back(aservice: AsyncClient) -> None:
    async def read() -> bytes:
        answer = await aservice.get("/toy/astream")
        return b"".join([part async for part in answer.streaming_content])

    assert asyncio.run(read()) == b"ab"
    assert (live_slots.here(), counted(route="/toy/astream")) == (0, 1)
