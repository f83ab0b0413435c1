"""The middleware in Django, through its own clients, on a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path, re_path

from controlplane.identity import roles
from controlplane.identity.tokens import issue
from ratelimits.headers import explain
from ratelimits.limiter import get_limiter, keys
from ratelimits.middleware import RateLimitMiddleware
from tests.ratelimits.limiting import policy, put

calls: list[str] = []


def view(request: HttpRequest) -> HttpResponse:
    calls.append(request.path_info)
    return HttpResponse("done")


async def async_view(request: HttpRequest) -> HttpResponse:
    calls.append(request.path_info)
    await asyncio.sleep(0)
    return HttpResponse("done")


def broken(request: HttpRequest) -> HttpResponse:
    calls.append(request.path_info)
    raise RuntimeError("the view is broken")


urlpatterns = [
    path("async", async_view),
    path("broken", broken),
    re_path(r"^.*$", view),
]

SERVICE_MIDDLEWARE = [
    "controlplane.identity.middleware.IdentityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ratelimits.middleware.RateLimitMiddleware",
]

ROLES = {"AI Bridge/Tech Lead": 9, "CEO": 7, "Setup Team Lead": 5, "External": 2, "default": 3}


@pytest.fixture(autouse=True)
def service(
    settings: Any, redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = SERVICE_MIDDLEWARE
    settings.ZANTARA_LIMITS_UNLIMITED_PATHS = ["/livez", "/readyz", "/health", "/metrics", "/static/"]
    settings.ZANTARA_LIMITS_TIMEOUT_SECONDS = 20.0  # zero store errors, on a busy machine too
    policies = [
        policy(requests, 900, id=n, name=f"p{n}", role=role, message=f"Enough, {role}", key="user|ip")
        for n, (role, requests) in enumerate(ROLES.items(), 1)
    ]
    put(redis_client, 40, *policies)
    monkeypatch.setattr(roles, "_source", None)  # a service without our database knows the seed's roles
    get_limiter.cache_clear()
    calls.clear()
    yield
    assert get_limiter().breaker_state == "closed"


def bearer(role: str, subject: str = "alice") -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(subject, role, 600)}"}


def statuses(client: Client, times: int, path: str = "/x", **extra: Any) -> list[int]:
    return [client.get(path, **extra).status_code for _ in range(times)]


def test_a_response_that_is_let_through_carries_the_fields() -> None:
    response = Client().get("/x")
    assert response.status_code == 200
    assert response.headers["RateLimit-Policy"] == '"p5";q=3;w=900'
    assert response.headers["RateLimit"].startswith('"p5";r=2;t=')
    assert response.headers["RateLimit-Limit"] == "3"
    assert response.headers["RateLimit-Remaining"] == "2"
    assert response.headers["Zantara-Policy-Version"] == "40"
    assert "Retry-After" not in response.headers


def test_a_429_says_everything_and_never_calls_the_view() -> None:
    client = Client()
    assert statuses(client, 4) == [200] * 3 + [429]
    response = client.get("/x")
    assert calls == ["/x"] * 3
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    body = json.loads(response.content)
    assert list(body) == ["type", "title", "status", "detail", "violated-policies", "retry_after", "decision_id"]
    assert body["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert body["title"] == "Too Many Requests"
    assert body["status"] == response.status_code == 429
    assert body["detail"] == "Enough, default"
    assert body["violated-policies"] == ["p5"]
    assert type(body["retry_after"]) is int
    assert 900 <= body["retry_after"] <= 916
    assert response.headers["Retry-After"] == str(body["retry_after"])
    assert response.headers["RateLimit"] == f'"p5";r=0;t={body["retry_after"]}'
    found = explain(body["decision_id"])
    assert (found.policy_id, found.policy_version, found.limit, found.used) == (5, 40, 3, 3)


@pytest.mark.parametrize(("role", "limit"), ROLES.items())
def test_a_token_of_each_role_gets_that_roles_limit(role: str, limit: int) -> None:
    assert statuses(Client(), limit + 2, headers=bearer(role)) == [200] * limit + [429] * 2


def test_an_unknown_role_is_limited_like_everybody_else() -> None:
    assert statuses(Client(), 4, headers=bearer("Astronaut")) == [200] * 3 + [429]


def test_a_bad_token_is_401_and_costs_nobody_anything(redis_client: redis.Redis) -> None:
    assert statuses(Client(), 5, headers={"Authorization": "Bearer rubbish"}) == [401] * 5
    assert calls == []
    assert list(redis_client.scan_iter(f"{keys.TAG}:c:*")) == []


def test_anonymous_callers_are_counted_by_address() -> None:
    client = Client()
    assert statuses(client, 4, REMOTE_ADDR="192.0.2.1") == [200] * 3 + [429]
    assert statuses(client, 4, REMOTE_ADDR="192.0.2.2") == [200] * 3 + [429]
    assert statuses(client, 1, REMOTE_ADDR="192.0.2.1", headers={"X-Forwarded-For": "203.0.113.9"}) == [429]
    assert statuses(client, 4, REMOTE_ADDR="2001:db8::1") == [200] * 3 + [429]
    assert statuses(client, 1, REMOTE_ADDR="2001:db8::ffff") == [429]  # the same /64


def test_a_user_with_a_session_gets_the_best_role_of_his_groups(db: None, django_user_model: Any) -> None:
    user = django_user_model.objects.create_user("bob", password="a long password")
    user.groups.add(Group.objects.create(name="External"), Group.objects.create(name="CEO"))
    client = Client()
    client.force_login(user)
    assert statuses(client, 8) == [200] * 7 + [429]


@pytest.mark.parametrize(
    "exempt",
    ["/livez", "/livez/", "/readyz", "/health", "/health/", "/health/db", "/metrics", "/static/a.css", "/%68ealth"],
)
def test_health_and_metrics_paths_are_never_limited(exempt: str, redis_client: redis.Redis) -> None:
    client = Client()
    assert statuses(client, 6, exempt) == [200] * 6
    assert "RateLimit" not in client.get(exempt).headers
    assert list(redis_client.scan_iter(f"{keys.TAG}:c:*")) == []


@pytest.mark.parametrize(
    "limited",
    [
        "/healthyfood",
        "/livezzz",
        "//livez",
        "/x/livez",
        "/LIVEZ",
        "/static",
        "/%2flivez",
        "/x/../livez",
        "/livez%00",
        "/./livez",
    ],
)
def test_paths_that_only_look_like_them_are_limited(limited: str) -> None:
    assert statuses(Client(), 4, limited) == [200] * 3 + [429]


def test_an_encoded_path_is_matched_by_what_it_means(redis_client: redis.Redis) -> None:
    put(redis_client, 41, policy(2, 900, id=8, name="search", route_prefix="/zantara.search"), policy(50, 900, id=9))
    client = Client()
    assert statuses(client, 1, "/zantara.search") == [200]
    assert statuses(client, 2, "/zantara%2Esearch?q=1") == [200, 429]
    assert statuses(client, 1, "/other") == [200]


def test_a_view_that_fails_costs_a_request_and_its_response_carries_the_fields() -> None:
    client = Client(raise_request_exception=False)
    response = client.get("/broken")
    assert response.status_code == 500
    assert response.headers["RateLimit-Remaining"] == "2"
    assert statuses(client, 3, "/broken") == [500, 500, 429]
    assert calls == ["/broken"] * 3


def test_an_async_client_gets_the_same_answers_from_sync_and_async_views() -> None:
    async def requests() -> list[Any]:
        client = AsyncClient()
        answers = [await client.get(p) for p in ("/async", "/x", "/async", "/async", "/x", "/livez")]
        await get_limiter().aclose()
        return answers

    answers = asyncio.run(requests())
    assert [a.status_code for a in answers] == [200, 200, 200, 429, 429, 200]
    assert [a.headers.get("RateLimit-Remaining") for a in answers] == ["2", "1", "0", "0", "0", None]
    assert calls == ["/async", "/x", "/async", "/livez"]


def test_an_async_users_session_counts_too(transactional_db: None, django_user_model: Any) -> None:
    user = django_user_model.objects.create_user("bob", password="a long password")
    user.groups.add(Group.objects.create(name="Setup Team Lead"))

    async def requests() -> list[int]:
        client = AsyncClient()
        await client.aforce_login(user)
        found = [(await client.get("/async")).status_code for _ in range(6)]
        await get_limiter().aclose()
        return found

    assert asyncio.run(requests()) == [200] * 5 + [429]


def test_it_runs_async_in_an_async_chain_and_sync_in_a_sync_one() -> None:
    assert not RateLimitMiddleware(view).is_async
    assert RateLimitMiddleware(async_view).is_async
    assert "ratelimits.middleware.RateLimitMiddleware" in django_settings.MIDDLEWARE


def test_the_decision_is_left_for_views_and_logs() -> None:
    request = RequestFactory().get("/x")
    RateLimitMiddleware(view)(request)
    decision = request.zantara_decision  # type: ignore[attr-defined]
    assert (decision.allowed, decision.source, decision.version) == (True, "store", 40)
    assert decision.asker.role == "default"


def test_a_burst_pair_gives_two_members_and_names_the_one_that_denied(redis_client: redis.Redis) -> None:
    put(redis_client, 41, policy(100, 900, name="all", burst_requests=2, burst_window_seconds=30))
    client = Client()
    assert statuses(client, 2) == [200, 200]
    response = client.get("/x")
    assert response.headers["RateLimit-Policy"] == '"all";q=100;w=900, "all-burst";q=2;w=30'
    body = json.loads(response.content)
    assert body["violated-policies"] == ["all-burst"]
    assert response.headers["RateLimit"] == f'"all";r=98, "all-burst";r=0;t={body["retry_after"]}'


def test_a_closed_profile_without_its_store_answers_503_and_never_calls_the_view(
    settings: Any, redis_client: redis.Redis, tmp_path: Any
) -> None:
    limiter = get_limiter()
    Client().get("/x")  # the limiter knows the published profiles: all closed
    limiter._store = type(limiter._store)(f"unix://{tmp_path}/none.sock", 0.045)
    calls.clear()
    response = Client().get("/x")
    assert (response.status_code, calls) == (503, [])
    body = json.loads(response.content)
    assert body["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    assert response.headers["Retry-After"] == str(body["retry_after"]) == "1"
    assert "RateLimit" not in response.headers


@pytest.mark.parametrize(
    ("dialects", "present", "absent"),
    [
        (["draft-10"], ["RateLimit", "RateLimit-Policy"], ["RateLimit-Limit", "X-RateLimit-Limit"]),
        (["draft-6"], ["RateLimit-Limit", "RateLimit-Reset"], ["RateLimit", "X-RateLimit-Limit"]),
        (["legacy"], ["X-RateLimit-Limit", "X-RateLimit-Reset"], ["RateLimit", "RateLimit-Limit"]),
    ],
)
def test_the_dialects_are_a_setting(settings: Any, dialects: list[str], present: list[str], absent: list[str]) -> None:
    settings.ZANTARA_RATELIMIT_HEADERS = dialects
    headers = Client().get("/x").headers
    assert all(name in headers for name in present)
    assert not any(name in headers for name in absent)
