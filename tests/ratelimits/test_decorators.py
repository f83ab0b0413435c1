from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import redis
import time_machine
from django.contrib.auth.models import User
from django.core.cache import caches
from django.test import Client

from controlplane.kernel.errors import ConfigurationError
from ratelimits import decorators
from ratelimits.decorators import ProcessCounts, process_counts
from ratelimits.login_rate import login_rate
from ratelimits.shedding.publication import KEY as SHEDDING

from . import console

pytestmark = pytest.mark.usefixtures("redis_url", "db")
LOGIN, TOKEN = "/admin/login/", "/auth/token"
DEAD = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "unix:///nonexistent/redis.sock?db=0",
    }
}


@pytest.fixture(autouse=True)
def _quick(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.ZANTARA_TRUSTED_PROXIES = ["127.0.0.1"]
    process_counts.clear()


@pytest.fixture
def user() -> User:
    return User.objects.create_user("admin", password="right one", is_staff=True)


def log_in(password: str = "wrong", *, name: str = "admin", address: str = "192.0.2.7") -> Any:
    return Client(headers={"x-forwarded-for": address}).post(LOGIN, {"username": name, "password": password})


def get_token(password: str = "wrong", *, name: Any = "admin", address: str = "192.0.2.7") -> Any:
    return Client(headers={"x-forwarded-for": address}).post(
        TOKEN, json.dumps({"username": name, "password": password}), content_type="application/json"
    )


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_the_eleventh_attempt_from_one_address_is_refused_whether_or_not_the_password_is_right(user: User) -> None:
    assert [log_in().status_code for _ in range(10)] == [200] * 10
    right, wrong = log_in("right one"), log_in("wrong")
    assert (right.status_code, wrong.status_code) == (429, 429)
    assert "_auth_user_id" not in right.client.session
    assert right.content == wrong.content
    assert 1 <= int(right.headers["Retry-After"]) <= 301
    html = right.content.decode()
    assert "Too many attempts" in html
    assert 'name="password"' not in html
    assert log_in("right one", address="192.0.2.8").status_code == 302


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_waiting_retry_after_is_enough(user: User) -> None:
    with time_machine.travel("2026-03-04 10:00:00", tick=False) as clock:
        for _ in range(10):
            log_in()
        wait = int(log_in().headers["Retry-After"])
        clock.shift(wait)
        assert log_in("right one").status_code == 302


def test_looking_at_the_login_page_is_not_counted(user: User) -> None:
    client = Client(headers={"x-forwarded-for": "192.0.2.7"})
    assert {client.get(LOGIN).status_code for _ in range(15)} == {200}
    assert log_in("right one").status_code == 302


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_a_token_refused_for_too_many_attempts_is_a_problem_document(user: User) -> None:
    assert {get_token().status_code for _ in range(10)} == {401}
    answer = get_token("right one")
    assert (answer.status_code, answer.headers["Content-Type"]) == (429, "application/problem+json")
    body = answer.json()
    assert (body["status"], body["title"]) == (429, "Too many attempts")
    assert body["retry_after"] == int(answer.headers["Retry-After"])
    assert "access_token" not in body


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_one_account_is_not_hammered_from_many_addresses_however_its_name_is_written(user: User) -> None:
    names = ["admin", "ADMIN", " Admin ", "ａｄｍｉｎ"]
    statuses = [log_in(name=names[n % 4], address=f"198.51.100.{n}").status_code for n in range(30)]
    assert set(statuses) == {200}
    assert log_in("right one", address="203.0.113.9").status_code == 429
    assert log_in(name="someone-else", address="203.0.113.9").status_code == 200


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_attempts_over_the_address_limit_do_not_lock_the_account_for_others(user: User) -> None:
    for _ in range(40):
        log_in()
    assert log_in("right one", address="203.0.113.9").status_code == 302


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_ipv6_callers_are_counted_by_their_network_and_mapped_ipv4_by_itself(user: User) -> None:
    for n in range(10):
        assert log_in(address=f"2001:db8::{n:x}").status_code == 200
    assert log_in(address="2001:db8::ffff").status_code == 429
    assert log_in(address="::ffff:192.0.2.77").status_code == 200
    assert log_in(address="nonsense").status_code == 200


def test_names_and_addresses_are_not_readable_in_the_store(user: User, redis_client: redis.Redis) -> None:
    log_in(name="someone-secret")
    # a service that earlier tests left running may put a shedding policy back
    kept = {key: redis_client.ttl(key) for key in redis_client.scan_iter() if key != SHEDDING.encode()}
    assert len(kept) >= 2
    for key, left in kept.items():
        assert b"someone-secret" not in key
        assert b"192.0.2.7" not in key
        assert left > 0


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_a_profile_that_covers_the_path_gives_the_rate_and_the_most_specific_wins(user: User) -> None:
    console.profile("default", route_prefix="/", requests=4)
    console.profile("default", route_prefix="/admin/", requests=2)
    console.profile("default", route_prefix="/admin/login/", requests=1, active=False)
    console.profile("default", route_prefix="/admin/login", requests=1, enforced=False)
    console.profile("CEO", route_prefix="/admin/login", requests=1)
    assert [log_in().status_code for _ in range(3)] == [200, 200, 429]


@time_machine.travel("2026-03-04 10:00:00", tick=False)
def test_an_unlimited_profile_frees_the_address_but_not_the_account(user: User) -> None:
    console.profile("default", route_prefix="/admin/login", unlimited=True)
    assert [log_in().status_code for _ in range(31)] == [200] * 30 + [429]


@pytest.mark.parametrize(
    ("text", "rate"), [("10/5m", (10, 300)), ("3/1h", (3, 3600)), ("7/30", (7, 30)), (" 1/1s ", (1, 1))]
)
def test_the_default_rate_is_a_setting(settings: Any, text: str, rate: tuple[int, int]) -> None:
    settings.ZANTARA_LOGIN_RATE = text
    assert login_rate() == rate


@pytest.mark.parametrize("text", ["", "abc", "5/year", "100/15month", "0/5m", "5/0", "-1/5m", "5/5m/5m", "1/500ms"])
def test_a_rate_that_cannot_be_read_is_refused_and_not_guessed(settings: Any, text: str) -> None:
    settings.ZANTARA_LOGIN_RATE = text
    with pytest.raises(ConfigurationError, match="ZANTARA_LOGIN_RATE"):
        login_rate()


def test_with_redis_away_people_can_log_in_and_are_limited_per_process(
    user: User, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CACHES = DEAD
    with pytest.raises(redis.RedisError):  # the store is really away
        caches["default"].get("x")
    with caplog.at_level(logging.WARNING):
        assert log_in("right one").status_code == 302
        assert [log_in().status_code for _ in range(9)] == [200] * 9
        refused = log_in("right one")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 301
    assert log_in("right one", address="192.0.2.8").status_code == 302
    said = [record for record in caplog.records if "login_limit_store_unreachable" in str(record.msg)]
    assert len(said) == 1


def test_with_redis_away_tokens_are_issued_and_limited_per_process(user: User, settings: Any) -> None:
    settings.CACHES = DEAD
    assert get_token("right one").status_code == 200
    assert [get_token().status_code for _ in range(10)] == [401] * 9 + [429]


def test_a_frozen_redis_does_not_keep_people_from_logging_in(
    user: User, settings: Any, redis_server_factory: Any
) -> None:
    server = redis_server_factory()
    settings.CACHES = {
        "default": {**DEAD["default"], "LOCATION": server.url, "OPTIONS": {"socket_timeout": 0.05}},
    }
    assert log_in("right one").status_code == 302
    server.freeze()
    assert log_in("right one").status_code == 302
    server.thaw()
    assert log_in("right one").status_code == 302


def test_an_error_of_the_view_is_not_taken_for_the_stores(settings: Any) -> None:
    calls = []

    def broken(request: Any) -> Any:
        calls.append(request)
        raise redis.ConnectionError("the view's own")

    from django.test import RequestFactory

    request = RequestFactory().post(LOGIN, {"username": "x"})
    with pytest.raises(redis.ConnectionError, match="the view's own"):
        decorators.guard_login(broken)(request)
    assert len(calls) == 1


@pytest.mark.parametrize("body", ["", "[]", "{", '"x"', '{"username": 5}', '{"username": null}', "[" * 3000])
def test_a_garbled_body_is_the_views_business(body: str) -> None:
    answer = Client().post(TOKEN, body, content_type="application/json")
    assert 400 <= answer.status_code < 500


def test_counts_in_the_process_are_bounded_and_begin_anew_after_their_window() -> None:
    now = [0.0]
    counts = ProcessCounts(monotonic=lambda: now[0])
    assert [counts.wait_seconds("g", "a", (2, 10)) for _ in range(3)] == [0, 0, 11]
    now[0] = 10.0
    assert counts.wait_seconds("g", "a", (2, 10)) == 0
    for n in range(ProcessCounts.MOST_KEYS + 50):
        counts.wait_seconds("g", str(n), (2, 10))
    assert len(counts._counts) <= ProcessCounts.MOST_KEYS
