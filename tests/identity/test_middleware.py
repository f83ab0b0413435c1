"""The middleware: a bad token is 401 and never anonymous, for sync and async views alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from controlplane.identity.caller import caller_of, client_of
from controlplane.identity.middleware import IdentityMiddleware
from controlplane.identity.tokens import issue
from controlplane.kernel.errors import ConfigurationError
from tests.identity.conftest import payload, sign


class View:
    """A view that says who called, in both kinds, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def sync(self, request: HttpRequest) -> HttpResponse:
        self.calls += 1
        caller = caller_of(request)
        return HttpResponse(f"{caller.kind} {caller.subject} {caller.role}")

    async def asynchronous(self, request: HttpRequest) -> HttpResponse:
        return self.sync(request)


def call(kind: str, view: View, **headers: str) -> HttpResponse:
    if kind == "sync":
        return IdentityMiddleware(view.sync)(RequestFactory().get("/x", **headers))  # type: ignore[return-value]
    middleware = IdentityMiddleware(view.asynchronous)
    assert iscoroutinefunction(middleware)
    names = {name.removeprefix("HTTP_").replace("_", "-"): value for name, value in headers.items()}
    request = AsyncRequestFactory().get("/x", headers=names)
    return async_to_sync(middleware)(request)  # type: ignore[no-any-return, arg-type]


both = pytest.mark.parametrize("kind", ["sync", "async"])


@both
def test_a_good_token_reaches_the_view_with_its_subject_and_role(kind: str) -> None:
    view = View()
    response = call(kind, view, HTTP_AUTHORIZATION=f"Bearer {issue('alice', 'CEO', 60)}")
    assert (response.status_code, response.content, view.calls) == (200, b"token alice CEO", 1)


@both
@pytest.mark.parametrize("header", ["", " ", "Bearer\tx", "Bearer"])
def test_a_header_that_is_empty_or_oddly_spaced_is_not_anonymous(kind: str, header: str) -> None:
    """granian hands bytes outside ASCII on as an empty header."""
    view = View()
    assert (call(kind, view, HTTP_AUTHORIZATION=header).status_code, view.calls) == (401, 0)


@both
@pytest.mark.parametrize("scheme", ["bearer", "BEARER", " Bearer "])
def test_the_scheme_is_read_in_any_case(kind: str, scheme: str) -> None:
    view = View()
    assert call(kind, view, HTTP_AUTHORIZATION=f"{scheme} {issue('alice', 'CEO', 60)}").status_code == 200


@both
@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer junk", "Bearer a.b.c", "bearer null", "Bearer " + "x" * 9000, "Bearer é.é.é"],
)
def test_a_forged_token_is_refused_and_never_becomes_anonymous(kind: str, header: str) -> None:
    view = View()
    response = call(kind, view, HTTP_AUTHORIZATION=header)
    assert (response.status_code, view.calls) == (401, 0)
    assert response["Content-Type"] == "application/problem+json"
    assert response["WWW-Authenticate"] == 'Bearer realm="zantara", error="invalid_token"'
    assert response["Cache-Control"] == "no-store"
    body = json.loads(response.content)
    assert (body["type"], body["title"], body["status"]) == ("about:blank", "The bearer token is not valid", 401)
    assert body["detail"].endswith("Ask for a new token.")


@both
def test_an_expired_token_and_two_tokens_at_once_are_refused(kind: str) -> None:
    view, good = View(), issue("alice", "CEO", 60)
    assert call(kind, view, HTTP_AUTHORIZATION=f"Bearer {sign(payload(iat=1, exp=2))}").status_code == 401
    assert call(kind, view, HTTP_AUTHORIZATION=f"Bearer {good},Bearer {good}").status_code == 401
    assert view.calls == 0


@both
@pytest.mark.parametrize("header", ["Basic YWxpY2U6c2VjcmV0", "Digest username=x", "Bearerx abc", "Token abc"])
def test_other_schemes_are_left_alone_and_their_callers_are_anonymous(kind: str, header: str) -> None:
    view = View()
    response = call(kind, view, HTTP_AUTHORIZATION=header)
    assert (response.status_code, response.content) == (200, b"anonymous  default")


def test_a_token_in_the_address_or_in_a_cookie_is_not_looked_at() -> None:
    view, token = View(), issue("alice", "CEO", 60)
    request = RequestFactory().get(f"/x?access_token={token}&token={token}")
    request.COOKIES["access_token"] = token
    response = IdentityMiddleware(view.sync)(request)
    assert response.content == b"anonymous  default"  # type: ignore[union-attr]


@both
def test_a_spoofed_address_moves_nobody_and_raises_nothing(kind: str) -> None:
    seen: list[Any] = []

    class Seen(View):
        def sync(self, request: HttpRequest) -> HttpResponse:
            seen.append(client_of(request))
            return HttpResponse()

    for header in ("203.0.113.9", "nonsense", "\x00", "," * 5000):
        assert call(kind, Seen(), HTTP_X_FORWARDED_FOR=header).status_code == 200
    assert {(client.address, client.is_loopback) for client in seen} == {("127.0.0.1", False)}


def test_the_database_is_never_asked(django_assert_num_queries: Any, db: None) -> None:
    with django_assert_num_queries(0):
        call("sync", View(), HTTP_AUTHORIZATION=f"Bearer {issue('alice', 'CEO', 60)}")
        call("sync", View(), HTTP_AUTHORIZATION="Bearer junk")


@pytest.mark.parametrize(
    ("name", "value"),
    [("ZANTARA_TRUSTED_PROXIES", ["my-proxy"]), ("ZANTARA_IPV6_PREFIX", 0), ("ZANTARA_JWT_SECRET_FILE", "/also/set")],
)
def test_settings_that_cannot_be_understood_stop_the_start(name: str, value: object, settings: Any) -> None:
    setattr(settings, name, value)
    with pytest.raises(ConfigurationError, match=name):
        IdentityMiddleware(View().sync)


def test_the_log_says_why_and_from_where_but_not_the_token(log_events: Callable[[], list[dict[str, Any]]]) -> None:
    token = sign(payload(iat=1, exp=2))
    call("sync", View(), HTTP_AUTHORIZATION=f"Bearer {token}")
    events = [event for event in log_events() if event["event"] == "token_refused"]
    assert [(event["reason"], event["client"]) for event in events] == [("expired", "127.0.0.1")]
    assert token not in str(log_events())


@pytest.mark.django_db
def test_the_whole_project_refuses_a_bad_token_before_any_view(client: Any) -> None:
    response = client.get("/admin/login/", headers={"authorization": "Bearer junk"})
    assert response.status_code == 401
    assert response["Content-Type"] == "application/problem+json"
