from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.db import DatabaseError
from django.test import Client, RequestFactory

from controlplane.identity.roles import best_role, known_role
from controlplane.kernel.registry import cards, probes, schedules, setup_steps
from ratelimits import policies, proxy_watch
from ratelimits.cards import use_now
from ratelimits.limiter import get_limiter
from ratelimits.limiter.outcome import Asker
from ratelimits.models import PolicyVersion, RateLimitProfile
from ratelimits.role_source import RoleSource, role_source
from ratelimits.tasks import reconcile_policies

from . import console

pytestmark = pytest.mark.usefixtures("redis_url")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    role_source.forget()
    proxy_watch._seen.clear()
    yield
    role_source.forget()


# --- reconcile ---------------------------------------------------------------------------------


def test_the_task_runs_every_ten_seconds_on_the_engine_and_is_not_the_operators_to_edit() -> None:
    spec = schedules.get("ratelimits.reconcile")
    assert (spec.task, spec.every_seconds, spec.expires_seconds, spec.queue, spec.editable) == (
        reconcile_policies.name, 10, 9, "engine", False,
    )  # fmt: skip


def test_what_was_saved_while_redis_was_away_is_put_in_force_by_the_task(transactional_db: None, settings: Any) -> None:
    console.seed_profiles()
    url, settings.ZANTARA_REDIS_URL = settings.ZANTARA_REDIS_URL, console.NOWHERE
    row = RateLimitProfile.objects.get(role="CEO")
    row.requests = 7
    row.save()
    assert reconcile_policies() == "unreachable"
    settings.ZANTARA_REDIS_URL = url
    assert policies.version_in_force() == row.version - 1
    assert reconcile_policies() == "in_force"
    assert policies.version_in_force() == row.version


def test_what_redis_has_lost_is_published_again(transactional_db: None, redis_client: redis.Redis) -> None:
    console.seed_profiles()
    redis_client.flushall()
    assert policies.version_in_force() == 0
    assert reconcile_policies() == "in_force"
    assert policies.version_in_force() == PolicyVersion.current()


# --- start page --------------------------------------------------------------------------------


def test_the_card_shows_use_per_role_with_the_most_denied_first(transactional_db: None) -> None:
    console.seed_profiles()
    console.profile("Partner", requests=1)
    for _ in range(3):
        get_limiter().decide(Asker("Partner", "p", "192.0.2.1", "/zantara.unified"))
    get_limiter().decide(Asker("CEO", "c", "192.0.2.2", "/zantara.unified"))
    rows = use_now()["rows"]
    assert [row["role"] for row in rows[:2]] == ["Partner", "CEO"]
    use = rows[0]["use"]
    assert (use.allowed, use.denied, use.callers) == (1, 2, 1)
    html = console.browser(console.person("boss", superuser=True)).get("/admin/").content.decode()
    assert rows[0]["used_percent"] == 100
    assert '<td>1</td> <td class="zt-denied">2</td> <td>1</td>' in " ".join(html.split())
    assert cards.get("limits").title in html


def test_the_card_takes_two_queries_and_stands_without_redis(
    transactional_db: None, settings: Any, django_assert_num_queries: Any
) -> None:
    console.seed_profiles()
    with django_assert_num_queries(2):
        use_now()
    settings.ZANTARA_REDIS_URL = console.NOWHERE
    card = use_now()
    assert (card["redis_answers"], {row["use"] for row in card["rows"]}) == (False, {None})
    html = console.browser(console.person("boss", superuser=True)).get("/admin/").content.decode()
    assert "Redis does not answer, so nothing is known of the use." in html


def test_the_steps_are_done_one_after_the_other(transactional_db: None) -> None:
    def done() -> list[bool]:
        return [setup_steps.get(f"limits.{name}").is_done() for name in ("profiles", "in_force", "tuned")]

    assert done() == [False, False, False]
    console.seed_profiles()
    assert done() == [True, True, False]
    row = RateLimitProfile.objects.get(role="CEO")
    row._history_user = console.person("boss")
    row.save()
    assert done() == [True, True, True]


# --- roles -------------------------------------------------------------------------------------


def test_the_roles_are_those_that_active_profiles_speak_of(db: None) -> None:
    console.profile("CEO")
    console.profile("Partner")
    console.profile("Gone", active=False)
    assert RoleSource()() == {"CEO": 40, "Partner": 25, "default": 10}
    assert known_role("Partner") == "Partner"
    assert known_role("Gone") == "default"
    assert best_role(["Partner", "CEO"]) == "CEO"
    assert best_role(["External", "Partner"]) == "Partner"


def test_the_database_is_asked_for_roles_at_most_every_ten_seconds(db: None, django_assert_num_queries: Any) -> None:
    now = [100.0]
    source = RoleSource(monotonic=lambda: now[0])
    with django_assert_num_queries(1):
        source()
        now[0] += 9.9
        source()
    console.profile("Partner")
    now[0] += 0.2
    with django_assert_num_queries(1):
        assert "Partner" in source()


def test_with_the_database_away_the_last_roles_hold_and_nothing_is_raised(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [0.0], []
    source = RoleSource(monotonic=lambda: now[0])
    console.profile("Partner")
    assert "Partner" in source()

    def away() -> Any:
        asked.append(True)
        raise DatabaseError("away")

    monkeypatch.setattr(RoleSource, "_ask", staticmethod(away))
    now[0] = 11
    assert "Partner" in source()
    assert len(asked) == 1
    assert RoleSource(monotonic=lambda: 0.0)()["CEO"] == 40


def test_on_an_event_loop_the_database_is_not_asked(db: None, django_assert_num_queries: Any) -> None:
    async def ask() -> Any:
        return RoleSource()()

    with django_assert_num_queries(0):
        assert asyncio.run(ask())["CEO"] == 40


# --- a proxy that nobody trusts ----------------------------------------------------------------


@pytest.fixture
def patient_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a note, and the question for it, need longer than a service gives them."""
    monkeypatch.setattr(proxy_watch, "TIMEOUT_SECONDS", 20)


def wait_for(what: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (answer := what()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer


def test_a_neighbour_who_forwards_without_being_trusted_is_noticed_until_he_is_trusted(
    settings: Any, patient_watch: None
) -> None:
    assert probes.get("limits.proxies").run().status == "pass"
    settings.ZANTARA_TRUSTED_PROXIES = []
    Client(REMOTE_ADDR="10.0.0.5", headers={"x-forwarded-for": "198.51.100.1"}).get("/livez")
    assert wait_for(proxy_watch.peers_seen) == ["10.0.0.5"]
    seen = probes.get("limits.proxies").run()
    assert (seen.status, seen.observed) == ("warn", 1.0)
    assert "ZANTARA_TRUSTED_PROXIES=10.0.0.5" in seen.remedy
    settings.ZANTARA_TRUSTED_PROXIES = ["10.0.0.0/8"]
    assert probes.get("limits.proxies").run().status == "pass"


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "found"),
    [
        ("10.0.0.5", True, [], "10.0.0.5"),
        ("127.0.0.1", True, [], "127.0.0.1"),
        ("::ffff:10.0.0.5", True, [], "10.0.0.5"),
        ("", True, [], "unix"),
        ("", True, ["unix"], None),
        ("10.0.0.5", False, [], None),
        ("10.0.0.5", True, ["10.0.0.5"], None),
        ("8.8.8.8", True, [], None),
        ("nonsense", True, [], None),
    ],
)
def test_only_neighbours_that_forward_are_suspected(
    settings: Any, peer: str, forwarded: bool, trusted: list[str], found: str | None
) -> None:
    settings.ZANTARA_TRUSTED_PROXIES = trusted
    assert proxy_watch.untrusted_proxy(peer, forwarded) == found


def test_an_asgi_request_is_looked_at_too(settings: Any, patient_watch: None) -> None:
    settings.ZANTARA_TRUSTED_PROXIES = []
    scope = {"type": "http", "headers": [(b"x-forwarded-for", b"198.51.100.1")], "client": ("10.0.0.6", 1)}
    proxy_watch.watch(None, scope=scope)
    assert wait_for(proxy_watch.peers_seen) == ["10.0.0.6"]


def test_without_redis_the_probe_knows_nothing_and_requests_go_on(settings: Any) -> None:
    settings.ZANTARA_REDIS_URL = console.NOWHERE
    settings.ZANTARA_TRUSTED_PROXIES = []
    request = RequestFactory(REMOTE_ADDR="10.0.0.5", headers={"x-forwarded-for": "1.2.3.4"}).get("/livez")
    proxy_watch.watch(None, environ=request.META)
    assert probes.get("limits.proxies").run().status == "unknown"
