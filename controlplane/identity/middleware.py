"""The first middleware: who is calling, before anything is spent on the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from controlplane.kernel.errors import NotAuthentic
from controlplane.kernel.problems import problem_response

from .caller import claims_of, client_of
from .config import proxy_settings, token_settings

log = structlog.get_logger(__name__)

REALM = "zantara"


class IdentityMiddleware:
    """Resolves the client's address and verifies the bearer token, if there is one. No database, no network.

    A token that does not hold is answered 401 at once: its bearer is never taken for an anonymous caller, and
    the view is never called. Other Authorization schemes are left to whoever understands them. Settings that
    cannot be understood raise ConfigurationError when the server starts, not at the first request.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        proxy_settings()
        token_settings()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer_async(request)
        return _refusal(request) or cast("HttpResponseBase", self.get_response(request))

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        return _refusal(request) or cast("HttpResponseBase", await self.get_response(request))


def _refusal(request: HttpRequest) -> HttpResponse | None:
    """Find out who calls; the 401 response if his token does not hold."""
    client = client_of(request)
    try:
        claims_of(request)
    except NotAuthentic as error:
        log.info("token_refused", reason=getattr(error, "reason", "unknown"), client=client.address)
        return problem_response(
            401,
            "The bearer token is not valid",
            str(error),
            headers={"WWW-Authenticate": f'Bearer realm="{REALM}", error="invalid_token"'},
        )
    return None
