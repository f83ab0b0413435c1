"""A real Celery worker, the real broker: what happens to a nightly run when its worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from backups.engine import due
from backups.engine.recover import tend_backups
from backups.models import BackupEvent, BackupRecord
from controlplane.kernel import clock
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.engine import seeing
from tests.backups.schedule.test_due import scheduled
from tests.kernel.racing import database_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]


@contextmanager
def celery_worker(log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The control plane's worker of the queue ``work``; killed with its children at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "controlplane.celery", "--quiet", "worker", "-Q", "work", "-c", "1",
             "--without-gossip", "--without-mingle"],
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "ZANTARA_DATABASE_URL": database_url(), "PYTHONWARNINGS": "ignore", **environment},
        )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def until(what: Callable[[], object], log: Path, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.1)


def test_a_worker_takes_the_message_and_commits(tmp_path: Path, redis_client: redis.Redis) -> None:
    plan = scheduled(factories.files_plan(tmp_path), "* * * * *")
    record = due.run_plan(plan.pk)
    assert record is not None
    assert redis_client.llen("work") == 1
    log = tmp_path / "log"
    with celery_worker(log):
        until(lambda: BackupRecord.objects.get(pk=record.pk).state == "committed", log)
    assert seeing.restored_files(record)
    assert BackupEvent.objects.filter(subject=record, to_state="running").count() == 1
    assert not Message.objects.exists()


def test_a_run_whose_workers_are_killed_each_time_ends_as_failed_with_one_message(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    plan = scheduled(factories.files_plan(tmp_path), "* * * * *")
    earlier = factories.committed_set(tmp_path, plan=plan)
    record = due.run_plan(plan.pk)
    assert record is not None
    log, proof = tmp_path / "log", tmp_path / "killed"
    with celery_worker(log, ZANTARA_TEST_KILL_AT="manifest_stored", ZANTARA_TEST_KILLED=str(proof)):
        for attempt in (1, 2, 3):
            until(proof.exists, log)
            proof.unlink()
            record.refresh_from_db()
            assert (record.state, record.attempt) == ("running", attempt)
            tend_backups(clock.now() + timedelta(seconds=61))
            record.refresh_from_db()
            if attempt < 3:
                assert record.state == "queued"
                # The wait before the next attempt passes.
                BackupRecord.objects.filter(pk=record.pk).update(due_at=clock.now())
                assert tend_backups().sent == 1
    assert record.state == "failed"
    assert "worker was lost" in record.error
    assert [message.key for message in Message.objects.all()] == [f"backup_failed:{record.name}"]
    assert seeing.half_visible(plan.target) == []
    assert set(seeing.prefixes(plan.target)) == {earlier.prefix}
    assert seeing.restored_files(earlier)
    # Nobody unlocks anything: the next run is just made.
    again = factories.committed_set(tmp_path, plan=plan)
    assert seeing.restored_files(again)


def test_a_run_whose_worker_is_killed_once_is_committed_by_the_next_with_one_message(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    plan = scheduled(factories.files_plan(tmp_path), "* * * * *")
    record = due.run_plan(plan.pk)
    assert record is not None
    log, proof = tmp_path / "log", tmp_path / "killed"
    with celery_worker(log, ZANTARA_TEST_KILL_AT="streaming", ZANTARA_TEST_KILLED=str(proof)):
        until(proof.exists, log)
    tend_backups(clock.now() + timedelta(seconds=61))
    BackupRecord.objects.filter(pk=record.pk).update(due_at=clock.now())
    with celery_worker(log):
        assert tend_backups().sent == 1
        until(lambda: BackupRecord.objects.get(pk=record.pk).state == "committed", log)
    record.refresh_from_db()
    assert record.attempt == 2
    assert seeing.restored_files(record)
    assert [(one.kind, one.severity) for one in Message.objects.all()] == [("backup_failed", 20)]
