"""Celery's numbers, from real queues and a real worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from controlplane import work_metrics
from controlplane.kernel import clock
from controlplane.monitoring.registry import Reading, collectors
from controlplane.schedules import store
from controlplane.schedules.tasks import heartbeat
from controlplane.work_metrics import ENQUEUED_AT_HEADER, QueueState, queue_states, readings

ROOT = Path(__file__).resolve().parents[1]
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = NOON
        monkeypatch.setattr(clock, "now", lambda: self.at)

    def seconds_past_noon(self, seconds: int) -> None:
        self.at = datetime.fromtimestamp(NOON.timestamp() + seconds, UTC)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return Hands(monkeypatch)


def test_an_empty_queue_is_nought_long_and_has_no_oldest(redis_client: redis.Redis) -> None:
    assert queue_states(redis_client) == [QueueState(name, 0, None) for name in ("engine", "work", "proof")]


def test_the_oldest_of_a_queue_is_the_one_that_a_worker_would_take_next(
    redis_client: redis.Redis, hands: Hands
) -> None:
    for at in (0, 40, 90):
        hands.seconds_past_noon(at)
        heartbeat.apply_async(queue="work")
    hands.seconds_past_noon(100)
    assert queue_states(redis_client) == [
        QueueState("engine", 0, None), QueueState("work", 3, 100.0), QueueState("proof", 0, None),
    ]  # fmt: skip
    # a worker takes from the right, as Kombu does
    taken = json.loads(redis_client.rpop("work"))  # type: ignore[arg-type]
    assert taken["headers"][ENQUEUED_AT_HEADER] == NOON.timestamp()
    assert queue_states(redis_client)[1] == QueueState("work", 2, 60.0)


def test_tasks_of_another_priority_are_counted_too(redis_client: redis.Redis, hands: Hands) -> None:
    heartbeat.apply_async(queue="work", priority=9)
    hands.seconds_past_noon(5)
    heartbeat.apply_async(queue="work")
    hands.seconds_past_noon(8)
    assert queue_states(redis_client)[1] == QueueState("work", 2, 8.0)


def test_a_message_that_is_not_ours_is_counted_and_its_age_is_not_guessed(redis_client: redis.Redis) -> None:
    for foreign in (b"not json", b'{"headers": {}}', b'{"headers": {"zantara_enqueued_at": "soon"}}', b"[]"):
        redis_client.delete("work")
        redis_client.lpush("work", foreign)
        assert queue_states(redis_client)[1] == QueueState("work", 1, None)
    names = [(reading.name, reading.labels) for reading in readings()]
    assert ("zantara_celery_queue_length", ("work",)) in names
    assert ("zantara_celery_queue_oldest_seconds", ("work",)) not in names


def test_the_queues_are_asked_in_one_round_trip(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    whole = redis.client.Pipeline.execute

    def execute(pipe: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(len(pipe.command_stack))
        return whole(pipe, *arguments, **options)

    monkeypatch.setattr(redis.client.Pipeline, "execute", execute)
    queue_states(redis_client)
    assert sent == [24]


def test_a_scrape_reads_length_age_and_heartbeat(redis_client: redis.Redis, hands: Hands) -> None:
    store.write_heartbeat(NOON, "here")
    heartbeat.apply_async(queue="engine")
    hands.seconds_past_noon(30)
    assert list(collectors.get("celery")()) == [
        Reading("zantara_celery_queue_length", 1, ("engine",)),
        Reading("zantara_celery_queue_oldest_seconds", 30.0, ("engine",)),
        Reading("zantara_celery_queue_length", 0, ("work",)),
        Reading("zantara_celery_queue_oldest_seconds", 0.0, ("work",)),
        Reading("zantara_celery_queue_length", 0, ("proof",)),
        Reading("zantara_celery_queue_oldest_seconds", 0.0, ("proof",)),
        Reading("zantara_beat_heartbeat_age_seconds", 30.0),
    ]


def test_without_redis_nothing_is_claimed(
    redis_server_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = redis_server_factory()
    client = server.client()
    monkeypatch.setattr(store, "client", lambda: client)
    assert [state.length for state in queue_states()] == [0, 0, 0]
    server.kill()
    assert queue_states() == []
    assert list(readings()) == []


# --- a real worker -----------------------------------------------------------------------------


class Work:
    """A worker on a Redis of its own, which counts into a folder as the embedded stack's workers do."""

    def __init__(self, folder: Path, server: Any) -> None:
        self.server, self.metrics = server, folder / "metrics"
        self.metrics.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZANTARA_", "COVERAGE"))}
        self.environment = kept | {
            "ZANTARA_DATA_DIR": os.environ["ZANTARA_DATA_DIR"],
            "ZANTARA_REDIS_URL": server.url,
            "ZANTARA_LOG_LEVEL": "ERROR",
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "PROMETHEUS_MULTIPROC_DIR": str(self.metrics),
            "PYTHONPATH": str(ROOT),
        }
        self.log = folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "controlplane.celery", "--quiet", "worker", "-Q", "work",
                 "-c", "1", "--without-gossip", "--without-mingle", "--include", "tests.toy_work"],
                cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def send(self, *names: str) -> None:
        self.python("from controlplane.celery import app; " + "; ".join(f"app.send_task({name!r})" for name in names))

    def python(self, code: str) -> str:
        """Run code as another process of the control plane, which shares the workers' folder."""
        done = subprocess.run(
            [sys.executable, "-c", f"import django; django.setup(); {code}"],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def exposition(self) -> Any:
        from controlplane.monitoring.parsing import parse

        text = self.python(
            "import sys; from controlplane.monitoring.exposition import exposition; "
            "sys.stdout.buffer.write(exposition('')[0])"
        )
        return parse(text)

    def waiting(self) -> list[int]:
        with self.server.client() as client:
            return [state.length for state in queue_states(client)] + [client.hlen("unacked")]


@pytest.fixture
def work(tmp_path: Path, redis_server_factory: Callable[..., Any]) -> Iterator[Work]:
    made = Work(tmp_path, redis_server_factory())
    yield made
    made.stop()


def until(condition: Callable[[], object], work: Work, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what}\n{work.log.read_text()}"
        time.sleep(0.1)


@pytest.mark.faults
def test_a_workers_tasks_are_counted_in_the_control_planes_metrics_and_outlive_the_worker(work: Work) -> None:
    work.send("toy.well", "toy.well", "toy.bad", "toy.dies", "toy.well")
    assert work.waiting() == [0, 5, 0, 0]
    waiting = work.exposition()
    assert waiting.value("zantara_celery_queue_length", queue="work") == 5
    assert 0 < waiting.value("zantara_celery_queue_oldest_seconds", queue="work") < 60
    work.start()
    until(lambda: work.waiting() == [0, 0, 0, 0], work, "the worker does all tasks")

    def check() -> None:
        seen = work.exposition()
        counts = seen.by("zantara_celery_task_duration_seconds_count", "task")
        failures = seen.by("zantara_celery_task_failures_total", "task")
        # the one that was killed has no end to measure, and its failure is told by the worker's main process
        assert {name: n for name, n in counts.items() if name.startswith("toy.")} == {"toy.well": 3, "toy.bad": 1}
        assert {name: n for name, n in failures.items() if name.startswith("toy.")} == {"toy.bad": 1, "toy.dies": 1}
        assert seen.value("zantara_celery_queue_length", queue="work") == 0

    until(lambda: work.exposition().total("zantara_celery_task_failures_total", task="toy.dies"), work, "it is counted")
    check()
    work.stop()
    check()


def test_what_the_module_offers_is_registered_with_the_control_plane() -> None:
    assert collectors.get("celery") is work_metrics.readings
