from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.kernel import clock
from controlplane.kernel.registry import ProbeResult
from controlplane.monitoring.health import minute
from controlplane.monitoring.health.document import State, health_document, reasons_against
from controlplane.monitoring.health.minute import NOTHING_SEEN, LastMinute, Traffic, traffic
from controlplane.monitoring.health.uptime import uptime_seconds
from controlplane.monitoring.health.watch import Watch
from controlplane.monitoring.parsing import Exposition, parse
from tests.stopwatch import Stopwatch

HEALTHY = State(
    at=datetime(2026, 5, 4, 3, 2, 1, 500_000, tzinfo=UTC),
    uptime_seconds=3600.25,
    memory_used_bytes=256 * 2**20,
    memory_limit_bytes=512 * 2**20,
    memory_percent=50.0,
    connections=12,
    traffic=Traffic(60.0, 120.0, 0.025, 0.05, 0.25),
    results={"database": ProbeResult("pass", "answers in 1.0 ms", observed=1.0, unit="ms")},
    critical=frozenset({"database"}),
)


def test_the_document_has_the_members_that_the_first_service_had() -> None:
    document = health_document(HEALTHY)
    checks = document.pop("checks")
    assert document == {
        "healthy": True,
        "timestamp": "2026-05-04T03:02:01.500Z",
        "uptime": 3600.25,
        "memory": {"used": 256.0, "total": 512.0, "percentage": 50.0},
        "connections": 12,
        "performance": {
            "responseTime": 250.0,
            "medianResponseTime": 50.0,
            "requestsPerSecond": 2.0,
            "errorRate": 0.025,
            "requests": 120,
            "windowSeconds": 60.0,
        },
        "services": {"database": "pass"},
        "status": "pass",
    }
    assert checks == {"database": [{"status": "pass", "critical": True}]}
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"memory_percent": 90.0}, "memory is at 90 % (limit 90 %)"),
        ({"connections": 1000}, "1000 connections are open (limit 1000)"),
        (
            {"traffic": Traffic(60.0, 20.0, 0.0, 0.2, 1.0)},
            "one request in twenty takes 1000 ms or longer (limit 1000 ms)",
        ),
        ({"down": frozenset({"database"})}, "database is down"),
    ],
)
def test_each_limit_makes_it_unhealthy_from_its_value_on(changes: dict, reason: str) -> None:
    document = health_document(replace(HEALTHY, **changes))
    assert (document["healthy"], document["status"], document["output"]) == (False, "fail", reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_percent": 89.9},
        {"connections": 999},
        {"traffic": Traffic(60.0, 20.0, 1.0, 0.2, 0.999)},
        {"traffic": NOTHING_SEEN},
    ],
)
def test_just_under_each_limit_it_is_healthy(changes: dict) -> None:
    assert reasons_against(replace(HEALTHY, **changes)) == []


def test_what_is_not_critical_only_warns() -> None:
    results = {**HEALTHY.results, "redis": ProbeResult("fail", "Redis does not answer", remedy="Start Redis.")}
    document = health_document(replace(HEALTHY, results=results))
    assert (document["healthy"], document["status"]) == (True, "warn")
    assert document["services"] == {"database": "pass", "redis": "fail"}
    assert document["checks"]["redis"] == [{"status": "warn", "critical": False, "output": "Redis does not answer"}]


def test_remedies_and_measurements_are_for_insiders() -> None:
    results = {"redis": ProbeResult("fail", "away", remedy="Start it.", observed=3.0, unit="ms")}
    state = replace(HEALTHY, results=results)
    assert "Start it." not in json.dumps(health_document(state))
    assert health_document(state, details=True)["checks"]["redis"] == [
        {
            "status": "warn", "critical": False, "output": "away", "summary": "away", "remedy": "Start it.",
            "observedValue": 3.0, "observedUnit": "ms",
        }
    ]  # fmt: skip


# --- the last minute -------------------------------------------------------------------------


def counted(
    *, fast: int, slow: int, errors: int = 0, supervisors: int = 0, route: str = "/zantara.unified"
) -> Exposition:
    total = fast + slow
    return parse(
        "# TYPE zantara_requests_total counter\n"
        f'zantara_requests_total{{route="{route}",status="200"}} {total - errors}\n'
        f'zantara_requests_total{{route="{route}",status="500"}} {errors}\n'
        f'zantara_requests_total{{route="/livez",status="200"}} {supervisors}\n'
        "# TYPE zantara_request_duration_seconds histogram\n"
        f'zantara_request_duration_seconds_bucket{{route="{route}",le="0.1"}} {fast}\n'
        f'zantara_request_duration_seconds_bucket{{route="{route}",le="1.0"}} {fast}\n'
        f'zantara_request_duration_seconds_bucket{{route="{route}",le="3.0"}} {total}\n'
        f'zantara_request_duration_seconds_bucket{{route="{route}",le="+Inf"}} {total}\n'
        f'zantara_request_duration_seconds_bucket{{route="/livez",le="0.1"}} {supervisors}\n'
        f'zantara_request_duration_seconds_bucket{{route="/livez",le="+Inf"}} {supervisors}\n'
    )


def test_the_traffic_is_that_of_callers_and_supervisors_do_not_hide_slow_answers() -> None:
    seen = traffic(counted(fast=100, slow=10), counted(fast=108, slow=22, errors=5, supervisors=5000), 10.0)
    assert (seen.requests, seen.requests_per_second, seen.error_share) == (20, 2.0, 0.25)
    assert seen.p95_seconds == pytest.approx(1 + 2 * 11 / 12)


def test_fewer_than_twenty_requests_say_nothing_of_the_response_time() -> None:
    seen = traffic(counted(fast=0, slow=0), counted(fast=0, slow=19), 10.0)
    assert (seen.requests, seen.p50_seconds, seen.p95_seconds) == (19, None, None)


class Counters:
    """Counters that grow by 30 slow requests at each reading, and a clock that goes 5 s on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read_count = 0
        self.now = 1000.0
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        self.minute = LastMinute(self.read)
        monkeypatch.setattr(self.minute, "start", lambda: None)

    def read(self) -> Exposition:
        self.read_count += 1
        return counted(fast=0, slow=30 * self.read_count)

    def go_on(self, readings: int) -> None:
        for _ in range(readings):
            self.minute.take()
            self.now += 5.0
        self.now -= 5.0


def test_the_last_minute_is_what_the_readings_of_a_minute_say(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = Counters(monkeypatch)
    assert counters.minute.traffic() == NOTHING_SEEN
    counters.go_on(1)
    assert counters.minute.traffic() == NOTHING_SEEN
    counters.now += 5
    counters.go_on(1)
    assert (counters.minute.traffic().seconds, counters.minute.traffic().requests) == (5.0, 30.0)
    counters.now += 5
    counters.go_on(100)
    assert (counters.minute.traffic().seconds, counters.minute.traffic().requests) == (60.0, 360.0)
    assert counters.read_count == 102  # asking has read nothing
    counters.now += 61
    assert counters.minute.traffic() == NOTHING_SEEN


def test_a_reading_that_fails_costs_that_reading_only(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = Counters(monkeypatch)
    counters.go_on(2)
    failed = []

    def fail() -> Exposition:
        failed.append(True)
        raise OSError("no such directory")

    counters.minute._read = fail
    counters.minute.take()
    assert failed == [True]
    assert counters.minute.traffic().requests == 30


def test_the_thread_reads_by_itself_and_a_forked_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minute, "PERIOD_SECONDS", 0.01)
    readings: list[int] = []

    def read() -> Exposition:
        readings.append(30 * len(readings))
        if len(readings) == 2:
            monkeypatch.setattr(minute, "PERIOD_SECONDS", 3600)
        return counted(fast=0, slow=readings[-1])

    watch = LastMinute(read)
    watch.start()
    watch.start()
    deadline = time.monotonic() + 60
    while watch.traffic() == NOTHING_SEEN and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watch.traffic().requests == 30
    first = watch._thread
    watch.after_fork()
    assert watch.traffic() == NOTHING_SEEN
    assert watch._thread is not first


# --- uptime and watches ----------------------------------------------------------------------


def test_uptime_is_the_service_s_and_not_that_of_a_worker_that_was_started_again() -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "time.sleep(1.0)\n"
        "child = 'from controlplane.monitoring.health.uptime import uptime_seconds; print(uptime_seconds())'\n"
        "subprocess.run([sys.executable, '-c', child], check=True)\n"
    )
    begun = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, start_new_session=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}, check=True,
    )  # fmt: skip
    assert 1.0 <= float(answer.stdout) < time.monotonic() - begun + 0.1
    assert uptime_seconds() > 0


def test_a_watch_asks_once_for_many_and_gives_the_last_answer_while_the_next_one_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = [1000.0], []
    entered, released = threading.Event(), threading.Event()
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def ask() -> int:
        asked.append(now[0])
        entered.set()
        assert released.wait(120)
        return len(asked)

    watch = Watch(ask, fresh_seconds=1, stale_seconds=10)
    released.set()
    assert watch.latest(wait_seconds=60, brief_wait_seconds=0.01) == 1
    assert watch.latest(wait_seconds=60, brief_wait_seconds=0.01) == 1
    assert len(asked) == 1
    now[0] += 1
    released.clear()
    entered.clear()
    with Stopwatch() as taken:
        assert watch.latest(wait_seconds=60, brief_wait_seconds=0.01) == 1  # old, and at once
        assert watch.latest(wait_seconds=60, brief_wait_seconds=0.01) == 1
    assert taken.seconds < 0.9
    assert entered.wait(60)
    assert len(asked) == 2
    now[0] += 9
    assert watch.latest(wait_seconds=0.01, brief_wait_seconds=0.01) is None  # too old to be given
    assert len(asked) == 2
    released.set()
    assert watch.latest(wait_seconds=60, brief_wait_seconds=0.01) == 2


def test_a_question_that_fails_is_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def ask() -> int:
        raise RuntimeError("no")

    assert Watch(ask, fresh_seconds=1, stale_seconds=10).latest(wait_seconds=5, brief_wait_seconds=5) is None
