"""Who may read /metrics, in which form, and what happens to it when a part of it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from controlplane.monitoring import compaction, metrics
from controlplane.monitoring import exposition as module
from controlplane.monitoring.exposition import exposition
from controlplane.monitoring.registry import Reading, collectors
from ratelimits.models import RateLimitProfile
from tests.monitoring.counting import count_in, value, values

TOKEN = "a token for the scraper"


@pytest.fixture
def toy_collector() -> Iterator[Any]:
    names: list[str] = []

    def add(name: str, collect: Any) -> None:
        collectors.add(name, collect)
        names.append(name)

    yield add
    for name in names:
        del collectors._entries[name]


def test_this_machine_may_read(client: Client) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert value(answer.content, "zantara_requests_in_flight") == 1


def test_others_are_refused(client: Client) -> None:
    answer = client.get("/metrics", REMOTE_ADDR="192.0.2.1")
    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert b"zantara_" not in answer.content


def test_a_proxy_on_this_machine_does_not_open_it_to_the_world(client: Client, settings: Any) -> None:
    settings.ZANTARA_TRUSTED_PROXIES = ["127.0.0.1/32"]
    assert client.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 403
    assert client.get("/metrics", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 200


def test_a_token_opens_it_from_anywhere_and_is_no_jwt(client: Client, settings: Any) -> None:
    settings.ZANTARA_METRICS_TOKEN = TOKEN
    ask = {"REMOTE_ADDR": "192.0.2.1"}
    assert client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}, **ask).status_code == 200
    assert client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}x"}, **ask).status_code == 401
    assert client.get("/metrics", **ask).status_code == 403


def test_the_token_may_be_in_a_file(client: Client, settings: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    settings.ZANTARA_METRICS_TOKEN_FILE = str(tmp_path / "token")
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/metrics", headers=headers, REMOTE_ADDR="192.0.2.1").status_code == 200


def test_named_networks_replace_this_machine(client: Client, settings: Any) -> None:
    settings.ZANTARA_METRICS_NETWORKS = ["192.0.2.0/24", "2001:db8::/32"]
    assert client.get("/metrics", REMOTE_ADDR="192.0.2.77").status_code == 200
    assert client.get("/metrics", REMOTE_ADDR="2001:db8::1").status_code == 200
    assert client.get("/metrics", REMOTE_ADDR="192.0.3.1").status_code == 403
    assert client.get("/metrics", REMOTE_ADDR="127.0.0.1").status_code == 403


def test_it_can_only_be_read(client: Client) -> None:
    assert client.post("/metrics").status_code == 405


def test_openmetrics_is_spoken_to_who_asks_for_it(client: Client) -> None:
    answer = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.content.endswith(b"# EOF\n")


def test_gauges_are_read_at_the_scrape(toy_collector: Any) -> None:
    numbers = iter([3.0, 5.0])
    toy_collector("toy", lambda: [Reading("zantara_celery_queue_length", next(numbers), ("toy",))])
    assert value(exposition()[0], "zantara_celery_queue_length", queue="toy") == 3
    assert value(exposition()[0], "zantara_celery_queue_length", queue="toy") == 5


def test_a_collector_that_fails_takes_nothing_else_with_it(toy_collector: Any) -> None:
    def broken() -> list[Reading]:
        raise ConnectionError("the broker is away")

    toy_collector("toy-broken", broken)
    text = exposition()[0]
    assert value(text, "zantara_scrape_errors_total", collector="toy-broken") == 1
    assert value(text, "zantara_active_connections") >= 0
    assert ("zantara_celery_queue_length", frozenset({("queue", "toy-broken")})) not in values(text)


def test_a_service_of_many_processes_answers_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "folder", lambda: tmp_path)
    count_in(tmp_path, "4194400-1", 2)
    count_in(tmp_path, "1", 3)
    count_in(tmp_path, "1", 4, kind="gauge_livemax", name="toy_gauge")
    text = exposition()[0]
    assert value(text, "toy_total", n="1") == 5
    assert value(text, "toy_gauge", n="1") == 4
    with compaction._locked(tmp_path, 0):
        monkeypatch.setattr(compaction, "LOCK_SECONDS", 0)
        answer = Client().get("/metrics")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.django_db
def test_database_cache_and_model_metrics_are_in_the_same_text(client: Client, redis_url: str) -> None:
    def now(name: str, **labels: str) -> float:
        return value(client.get("/metrics").content, name, **labels)

    before = {
        "queries": now("django_db_execute_total", alias="default"),
        "hits": now("django_cache_get_hits_total", backend="redis"),
        "misses": now("django_cache_get_misses_total", backend="redis"),
        "updates": now("django_model_updates_total", model="rate_limit_profile"),
    }
    profile = RateLimitProfile.objects.create(role="Gardener", requests=5, window_seconds=60)
    profile.requests = 6
    profile.save()
    cache.set("toy", None)
    assert cache.get("toy", "default") is None
    assert cache.get("absent", "default") == "default"
    assert cache.get_many(["toy", "absent"]) == {"toy": None}
    assert now("django_db_execute_total", alias="default") > before["queries"]
    assert now("django_cache_get_hits_total", backend="redis") == before["hits"] + 2
    assert now("django_cache_get_misses_total", backend="redis") == before["misses"] + 2
    assert now("django_model_updates_total", model="rate_limit_profile") > before["updates"]


def test_no_series_says_when_it_was_made() -> None:
    metrics.count_shed("limit", "CEO")
    assert b"_created" not in exposition()[0]
