from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.kernel.registry import Probe, ProbeResult, Registry
from controlplane.monitoring import pressure
from controlplane.monitoring.health import document, minute, probes
from tests.stopwatch import Stopwatch

ROOT = Path(__file__).parents[2]
ABROAD = "203.0.113.9"


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No answer of another test is given again."""
    monkeypatch.setattr(probes, "_judge", probes.ReadinessJudge())
    document.forget_answers()
    yield
    document.forget_answers()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Registry[Probe]:
    """A registry that holds only what the test adds."""
    registry: Registry[Probe] = Registry("health probe")
    monkeypatch.setattr(probes, "probes", registry)
    monkeypatch.setattr(document, "probes", registry)
    monkeypatch.setattr(probes, "_runner", probes.ProbeRunner())
    return registry


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held against the service: neither what the tests before did in the last minute, nor a full machine."""
    monkeypatch.setattr(document, "last_minute", lambda: minute.NOTHING_SEEN)
    monkeypatch.setattr(pressure, "current", lambda: pressure.Pressure(2**29, 2**30, 50.0, 3, 0.0))


def passing() -> ProbeResult:
    return ProbeResult("pass", "fine", observed=1.5, unit="ms")


def timed(client: Client, **extra: Any) -> tuple[float, Any]:
    with Stopwatch() as watch:
        answer = client.get("/health", **extra)
    return watch.seconds, answer


def test_health_says_healthy_with_200_to_everybody(client: Client, transactional_db: None, calm: None) -> None:
    answer = client.get("/health", REMOTE_ADDR=ABROAD)
    assert (answer.status_code, answer["Content-Type"], answer["Cache-Control"]) == (
        200, "application/health+json", "no-store",
    )  # fmt: skip
    body = answer.json()
    assert body["healthy"] is True
    assert body["memory"]["percentage"] == pytest.approx(
        100 * body["memory"]["used"] / body["memory"]["total"], abs=0.1
    )
    assert isinstance(body["connections"], int)
    assert body["uptime"] > 0
    assert body["services"]["database"] == "pass"
    assert not answer.cookies


def test_health_is_read_only_and_asks_nothing_of_the_database_itself(
    client: Client, registered: Registry[Probe], django_assert_num_queries: Any, db: None, calm: None
) -> None:
    assert client.post("/health").status_code == 405
    with django_assert_num_queries(0):
        assert client.get("/health").json()["healthy"] is True


@pytest.mark.parametrize(("percent", "connections", "status"), [(89.9, 999, 200), (90.0, 0, 503), (10.0, 1000, 503)])
def test_pressure_makes_it_503(
    client: Client, registered: Registry[Probe], monkeypatch: pytest.MonkeyPatch, calm: None,
    percent: float, connections: int, status: int,
) -> None:  # fmt: skip
    seen = pressure.Pressure(900, 1000, percent, connections, 0.0)
    monkeypatch.setattr(pressure, "current", lambda: seen)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["healthy"]) == (status, status == 200)


def test_slow_answers_of_the_last_minute_make_it_503(
    client: Client, registered: Registry[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "last_minute", lambda: minute.Traffic(60.0, 20.0, 0.0, 0.2, 1.2))
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["performance"]["responseTime"]) == (503, 1200.0)


def test_a_critical_component_that_is_down_makes_it_503_and_no_secret_is_told(
    client: Client, registered: Registry[Probe], calm: None
) -> None:
    def broken() -> ProbeResult:
        raise ConnectionError("postgres://zt:hunter2@db:5432/zt is away")

    registered.add("db", Probe("db", "db", broken, critical=True))
    registered.add("nice", Probe("nice", "nice", passing))
    answer = client.get("/health", REMOTE_ADDR=ABROAD)
    assert (answer.status_code, answer.json()["output"]) == (503, "db is down")
    assert answer.json()["services"]["db"] == "fail"
    assert answer.json()["checks"]["db"] == [
        {"status": "fail", "critical": True, "output": "ConnectionError: postgres://zt:***@db:5432/zt is away"}
    ]
    assert b"hunter2" not in answer.content


def test_a_component_that_is_not_critical_leaves_it_healthy(
    client: Client, registered: Registry[Probe], monkeypatch: pytest.MonkeyPatch, calm: None
) -> None:
    monkeypatch.setattr(document, "BRIEF_WAIT_SECONDS", 30)
    failing = Probe("nice", "nice", lambda: ProbeResult("fail", "away", remedy="Start it."), timeout_seconds=30)
    registered.add("nice", failing)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"], answer.json()["services"]) == (200, "warn", {"nice": "fail"})


@pytest.mark.parametrize(
    ("extra", "networks", "insider"),
    [
        ({}, [], True),
        ({"REMOTE_ADDR": ABROAD}, [], False),
        ({"REMOTE_ADDR": ABROAD}, ["203.0.113.0/24"], True),
        ({"REMOTE_ADDR": ABROAD}, ["198.51.100.0/24"], False),
        ({"REMOTE_ADDR": ABROAD, "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, [], False),  # a claim, not an address
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": ABROAD}, [], False),  # a proxy on this machine
    ],
)
def test_remedies_are_for_this_machine_and_allowed_networks(
    client: Client, registered: Registry[Probe], settings: Any, monkeypatch: pytest.MonkeyPatch,
    extra: dict, networks: list[str], insider: bool,
) -> None:  # fmt: skip
    settings.ZANTARA_METRICS_NETWORKS = networks
    monkeypatch.setattr(document, "BRIEF_WAIT_SECONDS", 30)
    late = Probe("nice", "nice", lambda: ProbeResult("warn", "late", remedy="See to it."), timeout_seconds=30)
    registered.add("nice", late)
    content = client.get("/health", **extra).content.decode()
    assert ("See to it." in content) == insider


# --- nothing hangs ---------------------------------------------------------------------------


@pytest.mark.faults
def test_a_redis_that_hangs_costs_health_nothing_after_the_first_answer(
    client: Client, transactional_db: None, settings: Any, redis_server_factory: Callable[..., Any], calm: None
) -> None:
    server = redis_server_factory()
    settings.ZANTARA_REDIS_URL = server.url
    server.freeze()
    first, answer = timed(client)
    assert first < 1.0
    assert answer.json()["healthy"] is True  # Redis is not critical here
    deadline = time.monotonic() + 60
    while answer.json()["services"]["redis"] != "fail" and time.monotonic() < deadline:
        time.sleep(0.1)
        answer = client.get("/health")
    assert answer.json()["services"]["redis"] == "fail"  # the fault has fired
    times = [timed(client)[0] for _ in range(40)]
    assert sorted(times)[30] < 0.05
    server.thaw()
    while answer.json()["services"]["redis"] != "pass" and time.monotonic() < deadline + 60:
        time.sleep(0.1)
        answer = client.get("/health")
    assert answer.json()["services"]["redis"] == "pass"


@pytest.mark.faults
def test_a_critical_component_that_hangs_is_waited_for_once_and_then_is_down(
    client: Client, registered: Registry[Probe]
) -> None:
    over, asked = threading.Event(), []

    def hang() -> ProbeResult:
        asked.append(True)
        over.wait(30)
        return ProbeResult("pass", "at last")

    registered.add("db", Probe("db", "db", hang, critical=True, timeout_seconds=0.3))
    begun = time.monotonic()
    first, answer = timed(client)
    assert time.monotonic() - begun > 0.25
    assert first < 2
    assert (answer.status_code, answer.json()["services"]["db"]) == (503, "unknown")
    times = [timed(client)[0] for _ in range(30)]
    over.set()
    assert sorted(times)[15] < 0.25, "no answer waits for it again"
    assert asked == [True]


def test_many_who_ask_at_once_ask_each_component_once(
    registered: Registry[Probe], monkeypatch: pytest.MonkeyPatch, calm: None
) -> None:
    monkeypatch.setattr(document._critical, "_fresh_seconds", 60)
    monkeypatch.setattr(document._others, "_fresh_seconds", 60)
    monkeypatch.setattr(document, "CRITICAL_WAIT_SECONDS", 60)
    monkeypatch.setattr(probes, "READINESS_CACHE_SECONDS", 60)
    asked = []

    def slow() -> ProbeResult:
        asked.append(True)
        time.sleep(0.1)
        return passing()

    registered.add("db", Probe("db", "db", slow, critical=True, timeout_seconds=30))
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(Client().get("/health").status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 8
    assert asked == [True]


def test_a_foreign_project_without_a_database_has_its_health(tmp_path: Path) -> None:
    script = """
import json
from django.conf import settings
settings.configure(ROOT_URLCONF="urls", SECRET_KEY="x", ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
import django
django.setup()
from django.test import Client
answer = Client().get("/health")
print(json.dumps([answer.status_code, answer.json()["healthy"], answer.json()["services"]]))
"""
    (tmp_path / "urls.py").write_text(
        "from django.urls import path\nfrom controlplane.monitoring.health.views import health\n"
        "urlpatterns = [path('health', health)]\n"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False, timeout=60,
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [200, True, {}]
