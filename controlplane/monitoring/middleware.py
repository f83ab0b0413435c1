"""The outermost middleware: how long each answer takes, how much memory, and who asked for what."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, cast

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.signals import setting_changed
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from controlplane.identity.caller import leave_bearer_alone

from . import live_slots
from .exposition import carries_metrics_token
from .labels import labels_of
from .memory import resident_bytes
from .metrics import listen_to_tokens, request_duration, requests_total, role_duration
from .registry import exact

log = structlog.get_logger(__name__)

SLOW_REQUEST_SECONDS = 5.0
LARGE_REQUEST_BYTES = 10 * 10**6
#: A client that went away before the answer: no status was sent, and this one is what proxies write for it.
CLIENT_CLOSED_REQUEST = 499

View = Callable[[HttpRequest], HttpResponseBase]
AsyncView = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


class MonitoringMiddleware:
    """Stands first, so that refusals of all other middlewares are measured too. Sync and async; no database.

    Every answer carries ``X-Response-Time`` and ``X-Memory-Delta`` (growth of the whole process while it was made,
    negative if it shrank). A stream is counted, and its request in flight, until it ends or is closed.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: View | AsyncView) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        self._read_settings()
        listen_to_tokens()
        setting_changed.connect(self._setting_changed)

    def __call__(self, request: HttpRequest) -> Any:
        if self._is_async:
            return self.__acall__(request)
        live_slots.enter()
        began, memory = time.perf_counter(), resident_bytes()
        try:
            self._admit_scraper(request)
            response = cast("View", self.get_response)(request)
        except BaseException:
            # Django turns exceptions into answers below us, unless it is told to let them through.
            self._ended(request, 500, began, memory)
            raise
        return self._answered(request, response, began, memory)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        live_slots.enter()
        began, memory = time.perf_counter(), resident_bytes()
        try:
            self._admit_scraper(request)
            response = await cast("AsyncView", self.get_response)(request)
        except Exception:
            self._ended(request, 500, began, memory)
            raise
        except BaseException:
            self._ended(request, CLIENT_CLOSED_REQUEST, began, memory)
            raise
        return self._answered(request, response, began, memory)

    def _admit_scraper(self, request: HttpRequest) -> None:
        if "HTTP_AUTHORIZATION" in request.META and carries_metrics_token(request):
            leave_bearer_alone(request)

    def _answered(
        self, request: HttpRequest, response: HttpResponseBase, began: float, memory: int
    ) -> HttpResponseBase:
        seconds, grown = time.perf_counter() - began, resident_bytes() - memory
        headers = response.headers
        headers["X-Response-Time"] = f"{seconds * 1000:.0f}ms"
        headers["X-Memory-Delta"] = f"{int(grown / 1024)}KB"
        if response.streaming:
            _until_closed(response, lambda: self._ended(request, response.status_code, began, memory))
        else:
            self._count(request, response.status_code, seconds, grown)
        return response

    def _ended(self, request: HttpRequest, status: int, began: float, memory: int) -> None:
        self._count(request, status, time.perf_counter() - began, resident_bytes() - memory)

    def _count(self, request: HttpRequest, status: int, seconds: float, grown: int) -> None:
        live_slots.leave()
        method, route, status_text, role, handler = labels = labels_of(request, status)
        requests_total.child(labels).inc()
        observed = exact(seconds)
        request_duration.child((method, route, handler)).observe(observed)
        role_duration.child((role,)).observe(observed)
        if seconds > self._slow_seconds:
            log.warning(
                "slow_request", method=method, route=route, handler=handler, status=status_text, role=role,
                duration_seconds=round(seconds, 3),
            )  # fmt: skip
        length = request.META.get("CONTENT_LENGTH") or ""
        body = int(length) if len(length) > 6 and length.isdecimal() and len(length) < 20 else 0
        if grown > self._large_bytes or body > self._large_bytes:
            log.warning(
                "large_request", method=method, route=route, handler=handler, status=status_text, role=role,
                memory_delta_bytes=grown, body_bytes=body,
            )  # fmt: skip

    def _read_settings(self) -> None:
        self._slow_seconds = float(getattr(settings, "ZANTARA_SLOW_REQUEST_SECONDS", SLOW_REQUEST_SECONDS))
        self._large_bytes = int(getattr(settings, "ZANTARA_LARGE_REQUEST_BYTES", LARGE_REQUEST_BYTES))

    def _setting_changed(self, *, setting: str, **_: Any) -> None:
        if setting.startswith("ZANTARA_"):
            self._read_settings()


def _until_closed(response: Any, ended: Callable[[], None]) -> None:
    """Call ``ended`` once: when the stream is through, breaks, or is closed by the server."""
    once = _Once(ended)
    if getattr(response, "file_to_stream", None) is not None:
        # A server may send the file itself and never look at the iterator; it closes the response all the same.
        response._resource_closers.append(once)
    elif response.is_async:
        response.streaming_content = _AsyncWatched(response.streaming_content, once)
        response._resource_closers.append(once)
    else:
        response.streaming_content = _Watched(response.streaming_content, once)


class _Once:
    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class _Watched:
    """A stream that says when it is over."""

    def __init__(self, parts: Iterable[bytes], over: Callable[[], None]) -> None:
        self._parts, self._over = iter(parts), over

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except BaseException:  # its end, or a fault in its midst
            self._over()
            raise

    def close(self) -> None:
        self._over()


class _AsyncWatched:
    def __init__(self, parts: AsyncIterable[bytes], over: Callable[[], None]) -> None:
        self._parts, self._over = aiter(parts), over

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._parts)
        except BaseException:
            self._over()
            raise

    async def aclose(self) -> None:
        self._over()
        close = getattr(self._parts, "aclose", None)
        if close is not None:
            await close()
