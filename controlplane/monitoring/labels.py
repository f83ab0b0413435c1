"""The labels of a request, each with few values whatever callers make up."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import Resolver404, resolve

from controlplane.identity.caller import known_caller
from controlplane.identity.roles import known_role

from .metrics import handler_of

UNMATCHED, OTHER = "<unmatched>", "<other>"
ANONYMOUS = "anonymous"
#: Somebody with a Django session whose role nothing had to find out (the admin is not limited).
SESSION = "session"
_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")}
_STATUSES = {number: str(number) for number in range(100, 600)}
#: Answers of middlewares that refused a request before its address was looked at.
_REFUSED_EARLY = frozenset({401, 403, 429, 500, 503})


def labels_of(request: HttpRequest, status: int) -> tuple[str, str, str, str, str]:
    """Method, route, status, user role and handler."""
    return (
        _METHODS.get(request.method or "", OTHER),
        route_of(request, status),
        _STATUSES.get(status, OTHER),
        role_of(request),
        handler_of(request),
    )


def route_of(request: HttpRequest, status: int) -> str:
    """The URL pattern, with a slash before it; ``<unmatched>`` where there is none."""
    match = request.resolver_match
    if match is None and status in _REFUSED_EARLY:
        try:
            match = resolve(request.path_info, getattr(request, "urlconf", None))
        except Resolver404:
            return UNMATCHED
    return UNMATCHED if match is None else f"/{match.route}"


def role_of(request: HttpRequest) -> str:
    """The caller's role as far as it is known by now: a label is no reason to ask the database."""
    caller = known_caller(request)
    if caller is not None and caller.kind != "anonymous":
        return known_role(caller.role)
    known = request.__dict__
    user = known.get("_cached_user") or known.get("_acached_user")
    return SESSION if user is not None and user.is_authenticated else ANONYMOUS
