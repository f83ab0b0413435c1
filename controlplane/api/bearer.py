"""The token of a request, found out once; and the two middlewares that make the rest of the house know of it."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from django.db import DatabaseError
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from controlplane.identity.caller import Caller, bearer_token, leave_bearer_alone, name_caller
from controlplane.kernel import clock
from controlplane.kernel.errors import NotAuthentic
from controlplane.kernel.problems import CONTENT_TYPE

from . import credentials
from .models import ApiToken
from .problems import answer_of_the_framework, database_away
from .tokens import find_token, note_use, role_of

log = structlog.get_logger(__name__)

PATH = "/api/"
_FOUND = "_zantara_api_token"

View = Callable[[HttpRequest], HttpResponseBase]


def presented(request: HttpRequest) -> str | None:
    """The text of the API token in the header; None where there is none, or one of another kind."""
    text = bearer_token(request.META.get("HTTP_AUTHORIZATION") or "")
    return text if text is not None and text.startswith(credentials.MARK) else None


def token_of(request: HttpRequest) -> ApiToken:
    """The token that the request carries; NotAuthentic, which says why, where it has none that holds."""
    found: ApiToken | NotAuthentic | None = getattr(request, _FOUND, None)
    if found is None:
        found = _find(request)
        setattr(request, _FOUND, found)
    if isinstance(found, NotAuthentic):
        raise found
    return found


def _find(request: HttpRequest) -> ApiToken | NotAuthentic:
    text = presented(request)
    if text is None:
        return NotAuthentic("This needs an API token.", remedy="Send Authorization: Bearer zt_… (docs/api.md).")
    now = clock.now()
    try:
        token = find_token(text, now)
    except NotAuthentic as refused:
        log.info("api_token_refused", reason=refused.message)
        return refused
    note_use(token, now)
    return token


class ApiBearerMiddleware:
    """Before the identity middleware, which would take our token for a broken JWT. Asks no database."""

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(PATH) and presented(request) is not None:
            leave_bearer_alone(request)
        return self.get_response(request)


class ApiCallerMiddleware:
    """Directly before the limiter, which counts a token by its role and its prefix, and whoever has none that holds
    by his address. Gives answers that are Django's own (no such address, wrong method) the shape of the API's."""

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(PATH):
            return self.get_response(request)
        try:
            if presented(request) is not None:
                self._name(request)
        except DatabaseError as error:
            return database_away(error)
        response = self.get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")  # it is for one token's eyes
        own = response.headers.get("Content-Type", "") == CONTENT_TYPE or response.status_code not in (404, 405)
        return response if own else answer_of_the_framework(request, response)

    def _name(self, request: HttpRequest) -> None:
        try:
            token = token_of(request)
        except NotAuthentic:
            return  # anonymous to the limiter; the operation itself answers 401
        role = role_of(token)
        name_caller(request, Caller("token", token.prefix, role, (role,)))
