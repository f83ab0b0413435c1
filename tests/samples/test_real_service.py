"""The sample service under granian with two processes: what is scraped is what callers did, and what /health says."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psutil
import pytest

from controlplane.kernel import clock
from controlplane.samples.models import Sample
from controlplane.samples.sources import Source, scrape_all
from controlplane.samples.taking import take_samples
from tests.stack import wait_for
from tests.stopwatch import Stopwatch
from tests.zantara.conftest import Running, serving

pytestmark = pytest.mark.xdist_group("sampled-service")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "metrics").mkdir()
    with serving(folder, PROMETHEUS_MULTIPROC_DIR=str(folder / "metrics")) as service:
        yield service


def call(running: Running, times: int) -> None:
    def one(_: int) -> int:
        return running.run("system.ping").status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(status < 500 for status in pool.map(one, range(times)))


def living(running: Running) -> list[int]:
    try:
        return running.worker_pids
    except psutil.NoSuchProcess:  # the one that was killed, until granian has looked after it and when it has
        return []


def said(answer: Any) -> dict[str, Any]:
    """What an answer of /health says: the service is well, or nothing is wrong but that this machine is slow."""
    assert answer.headers["Content-Type"] == "application/health+json"
    document = dict(answer.json())
    assert answer.status_code == (200 if document["healthy"] else 503)
    if not document["healthy"]:
        assert re.fullmatch(r"one request in twenty takes [^;]*", document["output"])
    return document


def counted(running: Running) -> float:
    (scrape,) = scrape_all([Source("sample", f"{running.url}/metrics")])
    assert scrape.scrape is not None, scrape.why
    return scrape.scrape.total("zantara_requests_total", route="/zantara.unified")


def test_a_row_says_what_callers_did_in_both_processes(
    running: Running, redis_url: str, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Source("sample", f"{running.url}/metrics"), Source("away", "http://127.0.0.1:1/metrics")]
    begun = counted(running)
    take_samples(asked=asked)
    call(running, 60)
    assert counted(running) == begun + 60
    later = clock.now() + timedelta(seconds=15)
    monkeypatch.setattr(clock, "now", lambda: later)
    with Stopwatch() as watch:
        tick = take_samples(asked=asked)
    assert watch.seconds < 2.5
    assert (tick.up, tick.down) == (("sample",), ("away",))
    row = Sample.objects.filter(service="sample").latest("at")
    routes = {route.name: route.requests for route in row.busiest_routes()}
    assert routes["/zantara.unified"] == 60
    assert row.requests == sum(routes.values())
    assert row.requests_per_second == pytest.approx(row.requests / row.seconds, abs=1e-3)
    assert row.up
    assert row.error_share == 0
    assert row.p95_seconds is not None
    assert row.in_flight is not None
    assert row.in_flight >= 1  # the scrape's own
    assert row.connections is not None
    assert row.memory_percent is not None
    assert 0 < row.memory_percent < 100
    assert row.busiest_handlers()
    assert list(Sample.objects.filter(service="away").values_list("up", "requests_per_second")) == [(False, None)] * 2


def test_health_is_the_service_s_whichever_process_answers_and_outlives_a_worker(running: Running) -> None:
    def document() -> dict[str, Any]:
        return said(running.get("/health"))

    def healthy() -> dict[str, Any] | None:
        seen = document()
        return seen if seen["healthy"] else None

    first = wait_for(healthy, 120, "it is healthy")
    assert set(first) >= {"healthy", "timestamp", "uptime", "memory", "connections", "performance", "services"}
    assert set(first["memory"]) == {"used", "total", "percentage"}
    # granian gives up when a worker dies that it has just started
    wait_for(lambda: document()["uptime"] > 7, 60, "the service is some seconds old")
    killed = running.worker_pids[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in living(running) and len(living(running)) == 2, 60, "the worker came back")
    call(running, 40)
    seen: list[float] = []

    def everybody_knows() -> bool:
        now = document()
        seen.append(now["uptime"])
        return bool(now["performance"]["requests"] >= 40 and now["performance"]["responseTime"] is not None)

    wait_for(everybody_knows, 60, "the traffic is seen within two readings")
    assert min(seen) >= first["uptime"]  # no worker speaks of its own short life
    wait_for(healthy, 120, "it is healthy once the last minute was")


def test_health_answers_quickly_while_the_service_works(running: Running) -> None:
    times = []
    for _ in range(30):
        answer = running.get("/health")
        said(answer)
        times.append(float(answer.headers["X-Response-Time"].removesuffix("ms")))
    assert sorted(times)[len(times) // 4] < 50
