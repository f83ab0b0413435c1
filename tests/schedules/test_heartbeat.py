"""The heartbeat, its probe, the book of last runs and run now, on a real Redis."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import time_machine
from django.contrib.auth.models import Permission
from django_celery_beat.models import PeriodicTask
from pytest_django import Settings

from controlplane.celery import app
from controlplane.kernel.errors import Refused, Unavailable
from controlplane.kernel.registry import probes, schedules
from controlplane.schedules import rows, store
from controlplane.schedules.heartbeat import last_heartbeat, probe_beat
from controlplane.schedules.running import ensure_permissions, run_now
from controlplane.schedules.tasks import heartbeat
from tests.stopwatch import Stopwatch

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_the_heartbeat_is_declared_and_its_task_is_found_by_celery() -> None:
    spec = schedules.get("zantara.heartbeat")
    assert (spec.every_seconds, spec.queue, spec.expires_seconds, spec.editable) == (60, "engine", 50, False)
    app.loader.import_default_modules()
    assert spec.task in app.tasks
    assert "beat" in probes


def test_a_heartbeat_is_read_back_and_outlives_a_long_silence(redis_client: redis.Redis) -> None:
    with time_machine.travel(NOON, tick=False):
        heartbeat()
        assert last_heartbeat() == NOON
    assert redis_client.ttl(store.HEARTBEAT_KEY) > 6 * 86400


@pytest.mark.parametrize(("age", "status"), [(0, "pass"), (150, "pass"), (151, "warn"), (90_000, "warn")])
def test_the_probe_warns_when_the_heartbeat_is_more_than_150_seconds_old(redis_url: str, age: int, status: str) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        heartbeat()
        clock.shift(timedelta(seconds=age))
        seen = probe_beat()
    assert (seen.status, seen.observed) == (status, float(age))
    assert bool(seen.remedy) == (status == "warn")


def test_no_heartbeat_is_a_warning_with_a_remedy_and_nonsense_is_no_heartbeat(redis_client: redis.Redis) -> None:
    assert (probe_beat().status, last_heartbeat()) == ("warn", None)
    assert "engine worker" in probe_beat().remedy
    redis_client.set(store.HEARTBEAT_KEY, '{"at": 5}')
    assert last_heartbeat() is None


def test_without_redis_the_probe_knows_nothing_and_says_so(
    redis_server_factory: Callable[..., Any], settings: Settings
) -> None:
    server = redis_server_factory()
    settings.ZANTARA_REDIS_URL = server.url
    heartbeat()
    assert probe_beat().status == "pass"
    server.freeze()
    with Stopwatch() as watch:
        seen = probe_beat()
    assert watch.seconds < 1.5
    assert seen.status == "unknown"
    assert "Redis" in seen.remedy
    assert last_heartbeat() is None
    assert store.last_runs(["x"]) == {}
    server.thaw()
    server.kill()
    assert probe_beat().status == "unknown"
    with pytest.raises(redis.RedisError):
        heartbeat()


def test_a_run_is_noted_with_its_length_and_outcome_and_never_with_an_errors_text(redis_client: redis.Redis) -> None:
    @app.task(name="tests.schedules.failing", shared=False)
    def failing(fail: bool) -> None:
        if fail:
            raise ValueError("the password is hunter2")

    headers = {"periodic_task_name": "nightly", "zantara_triggered_by": "alice"}
    failing.apply(kwargs={"fail": True}, headers=headers)
    run = store.last_runs(["nightly", "unknown"])["nightly"]
    assert (run.state, run.error, run.triggered_by) == ("failure", "ValueError", "alice")
    assert run.duration_seconds is not None
    assert 0 <= run.duration_seconds < 5
    stored = redis_client.hgetall(store._key("nightly"))
    assert b"hunter2" not in b"".join(stored.values())
    assert 29 * 86400 < redis_client.ttl(store._key("nightly")) <= 30 * 86400
    failing.apply(kwargs={"fail": False}, headers={"periodic_task_name": "nightly"})
    run = store.last_runs(["nightly"])["nightly"]
    assert (run.state, run.error, run.triggered_by) == ("success", "", "")
    failing.apply(kwargs={"fail": False})
    assert redis_client.keys("zantara:*") == [store._key("nightly").encode()]
    del app.tasks["tests.schedules.failing"]


@pytest.fixture
def broker(redis_server_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A broker of this test's own."""
    server = redis_server_factory()
    monkeypatch.setattr(app.conf, "broker_write_url", f"redis+socket://{server.socket_path}?virtual_host=0")
    return server


@pytest.mark.django_db
def test_run_now_sends_the_rows_own_arguments_to_its_own_queue(broker: Any) -> None:
    task = PeriodicTask.objects.create(
        name="by hand", task="controlplane.schedules.heartbeat", interval=rows.interval_row(1, "days"),
        kwargs="{}", queue="special", headers='{"zantara_origin": "code"}',
    )  # fmt: skip
    task_id = run_now(task, actor="alice")
    message = json.loads(broker.client().lindex("special", 0))
    assert message["headers"]["id"] == task_id
    assert message["headers"]["periodic_task_name"] == "by hand"
    assert message["headers"]["zantara_triggered_by"] == "alice"
    assert json.loads(base64.b64decode(message["body"]))[:2] == [[], {}]
    task.refresh_from_db()
    assert (task.last_run_at, task.total_run_count) == (None, 0)


@pytest.mark.django_db
def test_run_now_says_what_is_wrong_and_starts_nothing(broker: Any) -> None:
    task = PeriodicTask(name="x", task="no.such.task", args="[]", kwargs="{}")
    with pytest.raises(Refused, match=r"named no\.such\.task"):
        run_now(task, actor="alice")
    task.task, task.kwargs = "controlplane.schedules.heartbeat", "[]"
    with pytest.raises(Refused, match="Correct them under Advanced"):
        run_now(task, actor="alice")
    task.kwargs = '{"surprise": 1}'
    with pytest.raises(Refused, match="unexpected keyword argument 'surprise'"):
        run_now(task, actor="alice")
    assert broker.client().dbsize() == 0
    task.kwargs = "{}"
    broker.freeze()
    with pytest.raises(Unavailable, match="nothing was started"):
        run_now(task, actor="alice")
    broker.thaw()
    broker.kill()
    with pytest.raises(Unavailable, match="nothing was started"):
        run_now(task, actor="alice")


@pytest.mark.django_db
def test_the_permission_to_run_is_made_once() -> None:
    assert ensure_permissions() == ensure_permissions()
    assert Permission.objects.filter(codename="run_periodictask").count() == 1
