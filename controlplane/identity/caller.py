"""Who calls? The one place that answers for the whole project.

A bearer token counts before a Django session, and that before nothing (anonymous). Everything is found out once
per request and only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asgiref.sync import sync_to_async
from django.http import HttpRequest

from .addresses import Client, resolve_client
from .config import proxy_settings
from .roles import DEFAULT_ROLE, best_role, priorities
from .tokens import Claims, verify

_CLIENT, _CLAIMS, _CALLER = "_zantara_client", "_zantara_claims", "_zantara_caller"

#: Stands for a header that is there and empty: no address.
_UNREADABLE = "unreadable"
#: What a proxy leaves behind. X-Forwarded-For is the only one that is ever believed.
_SIGNS_OF_A_PROXY = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. ``subject`` is the token's ``sub`` or the Django user name, empty for anonymous callers.

    ``role`` is the one of ``roles`` that counts; a token's role that nobody knows keeps its name.
    """

    kind: Literal["token", "session", "anonymous"]
    subject: str = ""
    role: str = DEFAULT_ROLE
    roles: tuple[str, ...] = ()


ANONYMOUS = Caller(kind="anonymous")


def client_of(request: HttpRequest) -> Client:
    """The client's address behind the proxies that the operator trusts."""
    client: Client | None = getattr(request, _CLIENT, None)
    if client is None:
        meta, trust = request.META, proxy_settings()
        peer = meta.get("REMOTE_ADDR") or ""
        client = resolve_client(
            peer,
            _forwarded_for(meta),
            trusted=trust.networks,
            ipv6_prefix=trust.ipv6_prefix,
            peer_is_local_socket=trust.local_socket,
            proxied=any(name in meta for name in _SIGNS_OF_A_PROXY),
        )
        setattr(request, _CLIENT, client)
    return client


def _forwarded_for(meta: Mapping[str, Any]) -> str:
    """The header's text. A server that meets bytes outside ASCII hands on an empty one (granian does): a trusted
    proxy then said something that nobody can read, and its own address must not be taken for the client's.
    """
    text: str | None = meta.get("HTTP_X_FORWARDED_FOR")
    return "" if text is None else text if text.strip() else _UNREADABLE


def is_loopback(request: HttpRequest) -> bool:
    """Whether the resolved client, not merely a proxy in front of us, is on this machine."""
    return client_of(request).is_loopback


def claims_of(request: HttpRequest) -> Claims | None:
    """The claims of the request's bearer token, None without one; NotAuthentic if it does not hold.

    ``IdentityMiddleware`` asks this first, so that later callers never see NotAuthentic.
    """
    try:
        claims: Claims | None = getattr(request, _CLAIMS)
    except AttributeError:
        header = request.META.get("HTTP_AUTHORIZATION")
        # There and empty: bytes that the server could not read. Not anonymous; no token is as bad as that one.
        token = None if header is None else bearer_token(header) if header.strip() else ""
        claims = None if token is None else verify(token)
        setattr(request, _CLAIMS, claims)
    return claims


def bearer_token(authorization: str) -> str | None:
    """The token in an Authorization header; None if the header is absent or of another scheme."""
    scheme, *rest = authorization.split(None, 1) or [""]
    return "".join(rest).strip() if scheme.lower() == "bearer" else None


def caller_of(request: HttpRequest) -> Caller:
    """Who calls, from synchronous code. Looks at the session's user, and his groups, only if there is no token."""
    caller = _known(request)
    if caller is None:
        user = getattr(request, "user", None)
        caller = _session_caller(user, _group_names(user)) if _is_authenticated(user) else ANONYMOUS
        _remember(request, caller)
    return caller


async def acaller_of(request: HttpRequest) -> Caller:
    """Who calls, from asynchronous code: the database is asked without blocking the loop."""
    caller = _known(request)
    if caller is None:
        ask: Any = getattr(request, "auser", None)
        user = await ask() if ask is not None else getattr(request, "user", None)
        caller = ANONYMOUS
        if _is_authenticated(user):
            groups: Any = getattr(user, "groups", None)
            names = [] if groups is None else [name async for name in groups.values_list("name", flat=True)]
            # In a thread, because whoever manages roles may have to ask a database which ones there are.
            caller = await sync_to_async(_session_caller)(user, names)
        _remember(request, caller)
    return caller


def role_of(request: HttpRequest) -> str:
    """The role that counts for limits: ``default`` for anonymous callers and users without a role."""
    return caller_of(request).role


def known_caller(request: HttpRequest) -> Caller | None:
    """The caller if he is known by now; None if nobody has asked yet. Verifies nothing and asks no database."""
    known = request.__dict__
    caller: Caller | None = known.get(_CALLER)
    return _known(request) if caller is None and known.get(_CLAIMS) is not None else caller


def leave_bearer_alone(request: HttpRequest) -> None:
    """The bearer token of this request is another part's (for example the metrics'), and no JWT: who sends it is
    anonymous here. For a middleware before ``IdentityMiddleware`` that has recognised it."""
    setattr(request, _CLAIMS, None)


def name_caller(request: HttpRequest, caller: Caller) -> None:
    """Another part has found out who calls, by a credential of its own. For a middleware behind
    ``IdentityMiddleware`` and before whoever asks."""
    setattr(request, _CALLER, caller)


async def arole_of(request: HttpRequest) -> str:
    return (await acaller_of(request)).role


def role_of_user(user: object) -> str:
    """The role of a Django user: the best of his groups whose names are known roles. One query."""
    return best_role(_known_roles(_group_names(user)))


def _known(request: HttpRequest) -> Caller | None:
    caller: Caller | None = getattr(request, _CALLER, None)
    if caller is None and (claims := claims_of(request)) is not None:
        caller = Caller("token", claims.subject, best_role(claims.roles), claims.roles)
        setattr(request, _CALLER, caller)
    return caller


def _remember(request: HttpRequest, caller: Caller) -> None:
    # Before AuthenticationMiddleware there is no user yet: "anonymous" is then not the last word.
    if caller.kind != "anonymous" or hasattr(request, "user"):
        setattr(request, _CALLER, caller)


def _is_authenticated(user: object) -> bool:
    return bool(getattr(user, "is_authenticated", False))


def _session_caller(user: Any, group_names: Iterable[str]) -> Caller:
    roles = _known_roles(group_names)
    return Caller("session", user.get_username(), best_role(roles), roles)


def _known_roles(names: Iterable[str]) -> tuple[str, ...]:
    known = priorities()
    return tuple(name for name in names if name in known)


def _group_names(user: object) -> list[str]:
    groups: Any = getattr(user, "groups", None)
    return [] if groups is None else list(groups.values_list("name", flat=True))
