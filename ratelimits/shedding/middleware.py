"""Refuse a request before anything is spent on it. Sync and async; no database, no models, no store on the path."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from controlplane.identity.caller import claims_of
from controlplane.identity.roles import DEFAULT_ROLE, best_role, priorities
from controlplane.kernel import clock
from controlplane.monitoring import pressure
from controlplane.monitoring.metrics import count_shed, observe_shed_delay

from .admission import Admission
from .policy import RETRY_AFTER_SECONDS, STALE_AFTER_SECONDS, Rank, Reason, Verdict, rank_of, under_pressure
from .queue_wait import queue_wait_seconds
from .source import current_policy

View = Callable[[HttpRequest], HttpResponseBase]
AsyncView = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

#: Never shed: whoever looks after the service must reach it when it is at its limit.
EXEMPT_PATHS = ("/livez", "/readyz", "/health", "/metrics", "/startupz", "/admin", "/static", "/favicon.ico")
DEFAULT_THREADS = 8
#: An event loop has no threads to run out of: the bound is on what it may have begun.
DEFAULT_ASYNC_REQUESTS = 200
#: Requests that may wait at once in one process; beyond, they go on without waiting.
MOST_WAITING = 100

#: Tells a proxy that this answer is a refusal and no failure.
SHED_HEADER = "X-Zantara-Shed"

BODY = json.dumps(
    {
        "error": "SYSTEM_OVERLOADED",
        "message": "System under high load, please try again later",
        "retryAfter": RETRY_AFTER_SECONDS,
    }
).encode()


class SheddingMiddleware:
    """Stands directly behind the identity middleware: it needs the caller's role and nothing else.

    Whoever has only a session counts as ``default`` here: to look at a session is what shedding saves.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: View | AsyncView) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
            most = int(getattr(settings, "ZANTARA_ASYNC_REQUESTS", DEFAULT_ASYNC_REQUESTS))
        else:
            most = int(getattr(settings, "ZANTARA_THREADS", DEFAULT_THREADS))
        exempt = tuple(getattr(settings, "ZANTARA_SHEDDING_EXEMPT_PATHS", EXEMPT_PATHS))
        self._exempt, self._below_exempt = frozenset(exempt), tuple(f"{path.rstrip('/')}/" for path in exempt)
        self.admission = Admission(most, current_policy, connections=_connections)
        self._waiting = 0

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self.__acall__(request)
        path = request.path_info
        if path in self._exempt or path.startswith(self._below_exempt) or not current_policy().active:
            return cast("View", self.get_response)(request)
        role, rank = _caller(request)
        verdict = self._verdict(path, role, rank)
        if verdict.reason is not None:
            return _refusal(verdict.reason, role)
        if not self.admission.enter(rank, queue_wait_seconds(request)):
            return _refusal("in_flight", role)
        entered_at, computed = clock.monotonic(), time.thread_time()
        try:
            return cast("View", self.get_response)(request)
        finally:
            self.admission.leave(rank, entered_at, time.thread_time() - computed)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        if path in self._exempt or path.startswith(self._below_exempt) or not current_policy().active:
            return await cast("AsyncView", self.get_response)(request)
        role, rank = _caller(request)
        verdict = self._verdict(path, role, rank)
        if verdict.reason is not None:
            return _refusal(verdict.reason, role)
        if verdict.delay_seconds and self._waiting < MOST_WAITING:
            self._waiting += 1
            observe_shed_delay(role, verdict.delay_seconds)
            try:
                await asyncio.sleep(verdict.delay_seconds)
            finally:
                self._waiting -= 1
        if not self.admission.enter(rank, queue_wait_seconds(request)):
            return _refusal("in_flight", role)
        entered_at = clock.monotonic()
        try:
            return await cast("AsyncView", self.get_response)(request)
        finally:
            self.admission.leave(rank, entered_at)

    def _verdict(self, path: str, role: str, rank: Rank) -> Verdict:
        policy = current_policy()
        if not policy.concerns(path):
            return Verdict()
        return under_pressure(
            policy,
            pressure.current(),
            role,
            clock.monotonic(),
            random.random(),  # noqa: S311  (which of many callers is refused is no secret)
            rank=rank,
            may_wait=self.is_async,
        )


def _connections() -> int | None:
    """Open to this service, whichever process holds them; None where none can be seen, or not of late."""
    seen = pressure.current()
    fresh = clock.monotonic() - seen.sampled_at <= STALE_AFTER_SECONDS
    return seen.connections if fresh and seen.connections else None


def _caller(request: HttpRequest) -> tuple[str, Rank]:
    """The token's role and what it counts, without asking anybody."""
    claims = claims_of(request)
    role = DEFAULT_ROLE if claims is None else best_role(claims.roles)
    return role, rank_of(role, priorities())


def _refusal(reason: Reason, role: str) -> HttpResponse:
    count_shed(reason, role)
    response = HttpResponse(
        BODY,
        status=503,
        content_type="application/json",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Cache-Control": "no-store", SHED_HEADER: "true"},
    )
    # Django writes a line for each 5xx: half of what a refusal costs, and hundreds a second. They are counted.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
