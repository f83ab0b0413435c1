"""Ask the limiter before the view, tell the caller after it. Sync and async; no database, no models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from controlplane.identity.caller import Caller, acaller_of, caller_of, client_of
from controlplane.kernel.problems import problem_response
from controlplane.monitoring.metrics import count_decision

from .config import limits_config
from .headers import QUOTA_EXCEEDED, TEMPORARY_REDUCED_CAPACITY, decision_id, header_fields
from .limiter import Asker, Decision, get_limiter

View = Callable[[HttpRequest], HttpResponseBase]
AsyncView = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


class RateLimitMiddleware:
    """Stands behind the identity and session middlewares: it needs the caller's role.

    The decision is left on ``request.zantara_decision`` for views and logs.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: View | AsyncView) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self.__acall__(request)
        if limits_config().is_unlimited(request.path_info):
            return cast("View", self.get_response)(request)
        decision = get_limiter().decide(_asker(request, caller_of(request)))
        count_decision(decision)
        request.zantara_decision = decision  # type: ignore[attr-defined]  # Django's way to hand things on
        response = cast("View", self.get_response)(request) if decision.allowed else _denial(decision)
        return _with_fields(response, decision)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        if limits_config().is_unlimited(request.path_info):
            return await cast("AsyncView", self.get_response)(request)
        decision = await get_limiter().adecide(_asker(request, await acaller_of(request)))
        count_decision(decision)
        request.zantara_decision = decision  # type: ignore[attr-defined]  # Django's way to hand things on
        response = await cast("AsyncView", self.get_response)(request) if decision.allowed else _denial(decision)
        return _with_fields(response, decision)


def _asker(request: HttpRequest, caller: Caller) -> Asker:
    return Asker(caller.role, caller.subject, client_of(request).address, request.path_info)


def _with_fields(response: HttpResponseBase, decision: Decision) -> HttpResponseBase:
    for name, value in header_fields(decision, limits_config().dialects).items():
        response.headers[name] = value
    return response


def _denial(decision: Decision) -> HttpResponseBase:
    if decision.source == "closed":
        return problem_response(
            503,
            "Service Unavailable",
            "Requests cannot be counted at the moment, and this limit is kept strictly. Try again shortly.",
            type=TEMPORARY_REDUCED_CAPACITY,
            headers={"Retry-After": str(decision.retry_after_seconds), "Cache-Control": "no-store"},
            retry_after=decision.retry_after_seconds,
        )
    policy = decision.policy
    return problem_response(
        429,
        "Too Many Requests",
        policy.message if policy else "",
        type=QUOTA_EXCEEDED,
        headers={"Cache-Control": "no-store"},
        **{
            "violated-policies": [window.name for window in decision.violated],
            "retry_after": decision.retry_after_seconds,
            "decision_id": decision_id(decision),
        },
    )
