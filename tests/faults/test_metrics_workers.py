"""A real service of two processes, one of them killed under load: its numbers stay those of the answers."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratelimits.shedding.policy import SheddingPolicy
from ratelimits.shedding.publication import publish
from tests import needs
from tests.monitoring.counting import Series, value, values
from tests.zantara.conftest import Running, serving

pytestmark = pytest.mark.faults


@pytest.fixture
def service(tmp_path: Path, redis_server_factory: Callable[..., Any]) -> Iterator[Running]:
    """The sample service in two processes that count together; limits as in the seed. However busy the machine is,
    nothing is shed and no decision fails open."""
    server = redis_server_factory()
    with server.client() as client:
        assert publish(client, SheddingPolicy(version=1, active=False)).status == "in_force"
    folder = tmp_path / "metrics"
    folder.mkdir()
    with serving(
        tmp_path,
        workers=2,
        PROMETHEUS_MULTIPROC_DIR=str(folder),
        ZANTARA_REDIS_URL=server.url,
        ZANTARA_LIMITS_TIMEOUT="5s",
    ) as running:
        yield running


def scrape(service: Running) -> str:
    deadline = time.monotonic() + 20
    while True:
        try:
            answer = service.get("/metrics")
        except httpx2.HTTPError:  # a connection that the killed process had accepted
            assert time.monotonic() < deadline
            continue
        assert answer.status_code == 200, answer.text
        return answer.text


class Load:
    """Threads that ask and note what came back: a status, or nothing."""

    def __init__(self, service: Running, threads: int = 6) -> None:
        self._service = service
        self.answers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        body = '{"key": "echo", "params": {"text": "x"}}'
        while not self._over.is_set():
            try:
                status = str(self._service.request("POST", "/zantara.unified", content=body).status_code)
            except httpx2.HTTPError:
                status = "none"
            with self._lock:
                self.answers[status] += 1

    def wait_for(self, answers: int) -> None:
        deadline = time.monotonic() + 60
        while sum(self.answers.values()) < answers:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.01)


def requests(text: str, status: str) -> float:
    return value(text, "zantara_requests_total", route="/zantara.unified", method="POST", status=status)


def never_back(before: Series, after: Series) -> None:
    for (name, labels), number in before.items():
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert after[name, labels] >= number, (name, labels)


def test_counts_are_those_of_the_answers_though_a_process_was_killed_under_load(service: Running) -> None:
    workers = service.worker_pids
    assert len(workers) == 2
    with Load(service) as load:
        load.wait_for(150)
        before = values(scrape(service))
        os.kill(workers[0], signal.SIGKILL)
        seen = sum(load.answers.values())
        load.wait_for(seen + 200)
        never_back(before, values(scrape(service)))
    assert workers[0] not in service.worker_pids  # the kill fired
    deadline = time.monotonic() + 60
    while (in_flight := value(scrape(service), "zantara_requests_in_flight")) != 1:  # the scrape itself
        assert time.monotonic() < deadline, in_flight
    text = scrape(service)
    answered = sum(n for status, n in load.answers.items() if status != "none")
    counted = requests(text, "200") + requests(text, "429")
    # A request may have been answered, and counted, in the instant before its process died with the answer.
    assert answered <= counted <= answered + load.answers["none"]
    assert load.answers["none"] <= 12
    assert set(load.answers) <= {"200", "429", "none"}
    assert load.answers["200"] <= requests(text, "200") == 100  # the default limit, and not one more
    assert value(text, "zantara_request_duration_seconds_count", route="/zantara.unified", method="POST") == counted
    assert not list((service.log.parent / "metrics").glob(f"*_{workers[0]}-*.db"))


def test_without_a_kill_the_counts_are_exactly_those_of_the_load(service: Running) -> None:
    with Load(service) as load:
        load.wait_for(200)
    text = scrape(service)
    assert {status: requests(text, status) for status in load.answers} == dict(load.answers)
    assert value(text, "zantara_limit_decisions_total", outcome="allowed", source="store") == load.answers["200"]
    assert value(text, "zantara_limit_decisions_total", outcome="denied", source="store") == load.answers["429"]
    assert len(list((service.log.parent / "metrics").glob("counter_*.db"))) == 2  # both processes took part


def test_promtool_finds_nothing_wrong_with_the_metrics_of_a_running_service(service: Running) -> None:
    promtool = needs.command("promtool", package="prometheus")
    service.run("echo", {"text": "x"})
    service.get("/nowhere", headers={"Authorization": "Bearer nonsense"})
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scrape(service), capture_output=True, text=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
