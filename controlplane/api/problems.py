"""Errors as RFC 9457 documents: each of our own has a type, a status, and the remedy that its maker wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from django.core.exceptions import RequestDataTooBig
from django.core.exceptions import ValidationError as ModelInvalid
from django.db import DatabaseError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from controlplane.kernel.errors import ForbiddenMove, NotAuthentic, Refused, Unavailable, ZantaraError
from controlplane.kernel.problems import problem_response

log = structlog.get_logger(__name__)

_URN = "urn:zantara:problem:"
REALM = "zantara"


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of problem. ``name`` ends its ``type``, which never changes; ``when`` is for the documentation."""

    name: str
    status: int
    title: str
    when: str

    @property
    def type(self) -> str:
        return _URN + self.name


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("unauthorized", 401, "No valid API token", "no token, or one that is unknown, expired or revoked"),
        Kind("out-of-scope", 403, "The token has not this scope", "the token was not made for this"),
        Kind("not-permitted", 403, "Its owner may not do this", "the token's owner lacks a permission"),
        Kind("not-found", 404, "Not found", "no such row or address"),
        Kind("method-not-allowed", 405, "Method not allowed", "the address is right, the method is not"),
        Kind("malformed", 400, "The request cannot be read", "a body that is no JSON, a bad header"),
        Kind("too-large", 413, "The body is too large", "more than 2.5 MB"),
        Kind("invalid", 422, "The request is not valid", "a field is missing, unknown or wrong; see `errors`"),
        Kind(
            "idempotency-key-reused", 422, "The key belongs to another request", "same `Idempotency-Key`, other request"
        ),
        Kind("refused", 409, "Refused", "it makes no sense in the present state; nothing was changed"),
        Kind("forbidden-move", 409, "Not possible in this state", "the state machine has no such move"),
        Kind("unavailable", 503, "Not available", "a server that is needed did not answer; nothing is known"),
        Kind("failed", 500, "Failed", "it was tried, and failed in a way that has a name"),
        Kind("internal", 500, "Internal error", "a fault of ours; it is in the log"),
    )
}


class OutOfScope(ZantaraError):
    """The token was not made for this."""


class NotPermitted(ZantaraError):
    """The token's owner may not do this."""


class KeyReused(Refused):
    """An idempotency key came with another request than before."""


class Malformed(Refused):
    """A part of the request that is no field of its body cannot be read."""


def problem(
    name: str, detail: str, *, remedy: str = "", headers: Mapping[str, str] | None = None, **members: Any
) -> HttpResponse:
    """A problem of one of the ``KINDS``."""
    kind = KINDS[name]
    if remedy:
        members = {"remedy": remedy, **members}
    return problem_response(kind.status, kind.title, detail, type=kind.type, headers=headers, **members)


#: Which kind an error is; the first that fits.
_BY_ERROR: tuple[tuple[type[ZantaraError], str], ...] = (
    (OutOfScope, "out-of-scope"),
    (NotPermitted, "not-permitted"),
    (KeyReused, "idempotency-key-reused"),
    (Malformed, "malformed"),
    (ForbiddenMove, "forbidden-move"),
    (Refused, "refused"),
    (Unavailable, "unavailable"),
    (ZantaraError, "failed"),
)


def _of_ours(request: HttpRequest, error: ZantaraError) -> HttpResponse:
    if isinstance(error, NotAuthentic):
        challenge = f'Bearer realm="{REALM}"'
        if request.META.get("HTTP_AUTHORIZATION"):
            challenge += ', error="invalid_token"'
        return problem("unauthorized", error.message, remedy=error.remedy, headers={"WWW-Authenticate": challenge})
    name = next(name for kind, name in _BY_ERROR if isinstance(error, kind))
    headers = {"Retry-After": "5"} if name == "unavailable" else {}
    return problem(name, error.message, remedy=error.remedy, headers=headers)


def _unauthenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    return _of_ours(request, NotAuthentic("This needs an API token."))


def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    found = [{"where": _where(each["loc"]), "message": str(each["msg"])} for each in error.errors]
    return problem("invalid", "; ".join(f"{one['where']}: {one['message']}" for one in found), errors=found)


def _where(loc: Any) -> str:
    """``body.version`` of (“body”, name of our argument, “version”)."""
    place, *rest = (str(part) for part in loc)
    return ".".join([place, *(rest[1:] if place == "body" and len(rest) > 1 else rest)])


def _model_invalid(request: HttpRequest, error: ModelInvalid) -> HttpResponse:
    by_field = error.message_dict if hasattr(error, "error_dict") else {"body": error.messages}
    found = [
        {"where": "body" if name in ("body", "__all__") else f"body.{name}", "message": text}
        for name, texts in by_field.items()
        for text in texts
    ]
    return problem("invalid", "; ".join(f"{one['where']}: {one['message']}" for one in found), errors=found)


def _http(request: HttpRequest, error: HttpError) -> HttpResponse:
    name = {401: "unauthorized", 404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "malformed")
    return problem(name, "The body is no JSON." if name == "malformed" else str(error))


def _missing(request: HttpRequest, error: Http404) -> HttpResponse:
    return problem("not-found", str(error) or "There is nothing at this address.")


def _too_large(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    return problem("too-large", "Send less at once.")


def database_away(error: DatabaseError) -> HttpResponse:
    """The database could not be asked."""
    log.error("api_database_away", error=type(error).__name__)
    return problem("unavailable", "The control plane's database does not answer.", headers={"Retry-After": "5"})


def _unforeseen(request: HttpRequest, error: Exception) -> HttpResponse:
    log.error("api_failed", path=request.path_info, exc_info=error)
    return problem("internal", "The control plane failed. What happened is in its log.")


def answer_of_the_framework(request: HttpRequest, response: HttpResponseBase) -> HttpResponse:
    """Django's own 404 and 405 in our shape."""
    if response.status_code == 405:
        allowed = response.headers.get("Allow", "")
        headers = {"Allow": allowed} if allowed else {}
        return problem("method-not-allowed", f"{request.method} is not possible here.", headers=headers)
    return problem("not-found", "There is nothing at this address.", remedy="See /api/v1/docs.")


def add_handlers(api: NinjaAPI) -> None:
    """Teach the API our answers."""
    handlers: tuple[tuple[type[Exception], Callable[[HttpRequest, Any], HttpResponse]], ...] = (
        (ZantaraError, _of_ours),
        (AuthenticationError, _unauthenticated),
        (ValidationError, _invalid),
        (ModelInvalid, _model_invalid),
        (HttpError, _http),
        (Http404, _missing),
        (RequestDataTooBig, _too_large),
        (DatabaseError, lambda request, error: database_away(error)),
        (Exception, _unforeseen),
    )
    for error, handler in handlers:
        api.add_exception_handler(error, handler)
