"""A worker is killed while it uploads to an S3 server: no upload stays open, nothing half is visible."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from backups import keys
from backups.engine.recover import tend_backups
from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.models import BackupPlan, BackupRecord, StorageTarget
from backups.storage import open_target
from controlplane.kernel import clock
from tests.backups import factories
from tests.backups.engine import seeing
from tests.backups.servers.faults import FaultProxy, fault_proxy
from tests.backups.servers.s3 import S3Server

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]

CONTENTS = {"random": secrets.token_bytes(96 * 2**20)}


def plan_on(server: S3Server, tmp_path: Path, *, url: str = "") -> BackupPlan:
    keys.ensure_keys()
    fields = server.target_fields(server.make_bucket(), url=url)
    target = StorageTarget.objects.create(name=f"bucket-{factories.short()}", **fields)
    return factories.plan_of(target, [factories.files_source(tmp_path / "source", contents=CONTENTS)])


@pytest.fixture
def plan(tmp_path: Path, rclone_server: S3Server) -> BackupPlan:
    return plan_on(rclone_server, tmp_path)


@pytest.fixture
def proxy(rclone_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(rclone_server.url) as made:
        yield made


def test_an_upload_that_a_killed_worker_left_open_is_aborted(
    rclone_server: S3Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    plan = plan_on(rclone_server, tmp_path, url=proxy.url)
    hanging = proxy.on("UploadPart", part=3, slow_seconds=60)
    storage = open_target(plan.target)
    record = request_backup(plan, trigger="manual")
    assert record is not None
    with seeing.worker("run", record.pk) as process:
        deadline = time.monotonic() + 120
        while not (hanging.fired and list(storage.uploads("sets/"))):
            assert time.monotonic() < deadline
            assert process.poll() is None, "it was through before it could be killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    assert list(storage.uploads("sets/")) != []
    assert seeing.half_visible(plan.target) == []

    assert tend_backups(clock.now() + timedelta(seconds=61)).repeated == 1

    assert list(storage.uploads("sets/")) == []
    assert seeing.left_over(plan.target) == []
    record.refresh_from_db()
    run_backup(record.pk, owner="next", now=record.due_at)
    record.refresh_from_db()
    assert (record.state, record.attempt) == ("committed", 2)
    assert seeing.restored_files(record) == CONTENTS
    assert set(seeing.prefixes(plan.target)) == {record.prefix}


@pytest.mark.parametrize("step", ["source_stored", "manifest_stored", "commit_stored"])
def test_a_worker_killed_between_objects_leaves_a_whole_set_or_none(
    step: str, tmp_path: Path, plan: BackupPlan
) -> None:
    record = request_backup(plan, trigger="manual")
    assert record is not None
    seeing.killed_at(step, "run", record.pk, tmp_path / "killed")
    assert seeing.half_visible(plan.target) == []
    now = clock.now() + timedelta(seconds=61)
    tend_backups(now)
    if step != "commit_stored":
        record = BackupRecord.objects.get(pk=record.pk)
        assert seeing.left_over(plan.target) == []
        run_backup(record.pk, owner="next", now=record.due_at)
    record.refresh_from_db()
    assert (record.state, record.attempt) == ("committed", 1 if step == "commit_stored" else 2)
    assert seeing.restored_files(record) == CONTENTS
