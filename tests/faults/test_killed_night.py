"""A worker that is killed while the 02:00 backup runs: one message, under one key, at a real webhook."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from backups import beat
from backups.engine import due
from backups.engine.recover import tend_backups
from backups.models import BackupRecord
from controlplane.kernel import clock
from controlplane.notifications import delivering
from controlplane.notifications.models import Channel, Delivery, Message
from tests.backups import factories
from tests.backups.engine.seeing import half_visible, killed_at, left_over, restored_files
from tests.notifications.receiver import Receiver, receiver
from tests.stack import Stack, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("stack")]


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as there:
        yield there


def last_night(now: datetime) -> datetime:
    at = now.replace(hour=2, minute=0, second=0, microsecond=0)
    return at if at <= now else at - timedelta(days=1)


def killed_and_noticed(record: BackupRecord, proof: Path) -> None:
    """The worker dies in the middle; the tick finds its lease expired; the pause before the next attempt is over."""
    killed_at("streaming", "run", record.pk, proof)
    tend_backups(clock.now() + timedelta(seconds=61))
    BackupRecord.objects.filter(pk=record.pk, state="queued").update(due_at=clock.now())
    record.refresh_from_db()


def delivered(hook: Receiver, count: int) -> list[dict[str, Any]]:
    for _ in range(count + 2):
        Delivery.objects.filter(state="pending").update(due_at=clock.now())
        delivering.deliver_due()
    return hook.bodies


@pytest.fixture
def night(transactional_db: None, redis_url: str, tmp_path: Path, hook: Receiver) -> BackupRecord:
    """The run of last 02:00, as beat's message begins it."""
    Channel(name="ops", kind="webhook", address=hook.url, secret="s3cret-of-the-hook").save()
    plan = factories.files_plan(tmp_path)
    beat.write_schedule(plan, beat.Times("0 2 * * *"))
    at = last_night(clock.now())
    record = due.run_plan(plan.pk, now=at + timedelta(seconds=1))
    assert record is not None
    assert (record.scheduled_for, record.trigger) == (at, "schedule")
    assert due.run_plan(plan.pk, now=at + timedelta(seconds=2)) is None
    return record


def test_a_night_whose_worker_dies_each_time_is_told_once(night: BackupRecord, hook: Receiver, tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        killed_and_noticed(night, tmp_path / "killed")
        assert night.attempt == attempt
        assert (night.state, Message.objects.count()) == (("failed", 1) if attempt == 3 else ("queued", 0))

    # At least once: a receiver that stumbles gets it again, and knows it by its key.
    hook.will_answer(500, 503)
    bodies = delivered(hook, 3)
    assert len(bodies) == 3
    assert {body["key"] for body in bodies} == {f"backup_failed:{night.name}"}
    assert bodies[0]["severity"] == "error"
    assert "The worker was lost" in bodies[0]["body"]
    assert len(delivered(hook, 3)) == 3
    assert (half_visible(night.target), left_over(night.target)) == ([], [])


def test_a_night_that_succeeds_at_the_second_attempt_is_told_once_too(
    night: BackupRecord, hook: Receiver, tmp_path: Path
) -> None:
    killed_and_noticed(night, tmp_path / "killed")
    ended = factories.run_backup(night.pk, owner="second worker")
    assert ended is not None
    assert (ended.state, ended.attempt) == ("committed", 2)
    bodies = delivered(hook, 2)
    assert [(body["key"], body["severity"]) for body in bodies] == [(f"backup_failed:{night.name}", "warning")]
    assert "made at attempt 2" in bodies[0]["title"]
    assert set(restored_files(ended)) == {"a.txt", "sub/b.bin"}


# --- the same on the whole stack ------------------------------------------------------------------------------------


@contextmanager
def slow_service() -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """A service whose export stands still after its first line until it is let go: address, begun, go on."""
    begun, go_on = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.end_headers()
            self.wfile.write(json.dumps({"id": "a", "text": "a", "embedding": [1.0, 0.0]}).encode() + b"\n")
            self.wfile.flush()
            begun.set()
            go_on.wait(600)
            self.wfile.write(b'{"end": {"records": 1}}\n')

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/vectors/export", begun, go_on
    finally:
        go_on.set()
        server.shutdown()
        server.server_close()


SET_UP = """
import sys
from datetime import timedelta
from backups import beat
from backups.models import BackupPlan, BackupSource, StorageTarget
from controlplane.kernel import clock
from controlplane.notifications.models import Channel
export, hook = {export!r}, {hook!r}
Channel(name="ops", kind="webhook", address=hook, secret="s3cret-of-the-hook", kinds=["backup_failed"]).save()
source = BackupSource(name="slow", kind="memory_vectors", settings=dict(url=export))
source.save()
plan = BackupPlan(name="night", target=StorageTarget.objects.get(name="local"))
plan.save()
plan.sources.set([source])
at = clock.now() + timedelta(seconds=120)  # that minute begins late enough for a slow beat to hear of it first
beat.write_schedule(plan, beat.Times(f"{{at.minute}} {{at.hour}} * * *"))
"""


def rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        return connection.execute(sql).fetchall()


def kill_with_children(pid: int) -> None:
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.e2e
def test_on_the_running_stack_a_killed_scheduled_run_is_repeated_and_told_once(tmp_path: Path, hook: Receiver) -> None:
    stack = Stack(tmp_path / "var")
    database = tmp_path / "var" / "controlplane.sqlite3"

    def records(columns: str) -> list[tuple[Any, ...]]:
        return rows(database, f"SELECT {columns} FROM backups_backuprecord WHERE plan_name = 'night'")

    def wait(what: Callable[[], Any], seconds: float, why: str) -> Any:
        return wait_for(what, seconds, f"{why}: {records('name, state, attempt, error')}")

    with slow_service() as (export, begun, go_on):
        try:
            stack.start().wait_ready(180)
            made = stack.manage("shell", "-v", "0", "-c", SET_UP.format(export=export, hook=hook.url))
            assert made.returncode == 0, made.stderr
            assert begun.wait(420), records("name, state, error")
            [(name, state, scheduled_for)] = records("name, state, scheduled_for")
            assert state == "running"
            assert scheduled_for is not None
            kill_with_children(stack.children()["worker-work"])
            go_on.set()

            wait(lambda: records("state") == [("committed",)], 420, "the run was not repeated")
            assert records("name, attempt") == [(name, 2)]
            wait_for(lambda: hook.received, 60, "nobody was told")
            stack.manage("shell", "-v", "0", "-c", "from backups.tasks import tend; tend()")
        finally:
            stack.stop()
    assert [body["key"] for body in hook.bodies] == [f"backup_failed:{name}"]
    assert hook.bodies[0]["title"] == f"{name} was made at attempt 2"
