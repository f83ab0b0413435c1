"""Whole runs into stores that fail: no set half visible, nothing left behind, and earlier sets still restore."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups import keys
from backups.engine.run import run_backup
from backups.models import BackupPlan, BackupRecord, StorageTarget
from backups.proof import request_proof, run_proof
from backups.storage import open_target
from tests import needs
from tests.backups import factories
from tests.backups.servers.faults import FaultProxy, fault_proxy
from tests.backups.servers.s3 import TESTS, S3Server

pytestmark = [pytest.mark.faults, pytest.mark.django_db(transaction=True)]

MIB = 2**20


@pytest.fixture(autouse=True)
def _identity_and_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    keys.ensure_keys()
    monkeypatch.setenv("ZANTARA_DRILL_IDENTITY_FILE", str(keys.folder() / "drill_identity.txt"))
    monkeypatch.setattr("backups.storage.s3.Patience", lambda: TESTS)


@pytest.fixture
def proxy(rclone_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(rclone_server.url) as made:
        yield made


@pytest.fixture
def plan(tmp_path: Path, proxy: FaultProxy, rclone_server: S3Server) -> BackupPlan:
    """A plan whose one artifact has three blocks, into a bucket behind the proxy."""
    fields = rclone_server.target_fields(rclone_server.make_bucket(), url=proxy.url)
    target = StorageTarget.objects.create(name=f"bucket-{factories.short()}", prefix="p", **fields)
    source = factories.files_source(tmp_path / "source", contents={"random": secrets.token_bytes(40 * MIB)})
    return factories.plan_of(target, [source])


@pytest.fixture
def earlier(plan: BackupPlan) -> BackupRecord:
    record = factories.run_now(plan)
    assert record.state == "committed", record.error
    return record


def assert_only_stored(record: BackupRecord) -> None:
    """Nothing but this set is in its store, and it can be read to its last byte."""
    storage = open_target(record.target)
    assert {info.key.rsplit("/", 1)[0].startswith(record.prefix) for info in storage.list("")} == {True}
    assert list(storage.uploads("")) == []
    proof = request_proof(record, level=2, trigger="manual", requested_by="test")
    run_proof(proof.pk, owner="test")
    proof.refresh_from_db()
    assert proof.state == "passed", proof.error


def try_again(record: BackupRecord) -> BackupRecord:
    ended = run_backup(record.pk, owner="test", now=record.due_at)
    assert ended is not None
    return ended


@pytest.mark.parametrize(
    ("operation", "which", "act"),
    [
        ("CreateMultipartUpload", {}, {"status": 500}),
        ("UploadPart", {"part": 1}, {"status": 500}),
        ("UploadPart", {"part": 2}, {"reset": True}),
        ("UploadPart", {"part": 3}, {"status": 503, "code": "SlowDown"}),
        ("CompleteMultipartUpload", {}, {"error_in_200": True}),
        ("PutObject", {"key": "expectations"}, {"status": 500}),
        ("PutObject", {"key": "manifest.json"}, {"reset": True}),
        ("PutObject", {"key": "COMMIT"}, {"status": 500}),
    ],
)
def test_a_run_that_the_store_fails_leaves_nothing_and_succeeds_later(
    earlier: BackupRecord, plan: BackupPlan, proxy: FaultProxy, operation: str, which: dict, act: dict
) -> None:
    fault = proxy.on(operation, times=1000, **which, **act)
    record = factories.run_now(plan)
    proxy.assert_all_fired()
    assert record.state == "queued"
    assert record.due_at > record.created_at
    assert record.error
    assert_only_stored(earlier)

    fault.times = 0
    record = try_again(record)
    assert (record.state, record.attempt, record.error) == ("committed", 2, "")
    assert BackupRecord.objects.get(pk=earlier.pk).state == "committed"


@pytest.mark.parametrize(
    ("operation", "which"),
    [("UploadPart", {"part": 2}), ("PutObject", {"key": "COMMIT"}), ("CreateMultipartUpload", {})],
)
def test_a_run_that_the_store_refuses_fails_at_once_and_leaves_nothing(
    earlier: BackupRecord, plan: BackupPlan, proxy: FaultProxy, operation: str, which: dict
) -> None:
    proxy.on(operation, status=403, code="AccessDenied", times=1000, **which)
    record = factories.run_now(plan)
    proxy.assert_all_fired()
    assert (record.state, record.prefix) == ("failed", "")
    assert "AccessDenied" in record.error
    assert "hunter2" not in record.error
    assert_only_stored(earlier)


def test_a_commit_whose_answer_was_lost_is_a_commit(earlier: BackupRecord, plan: BackupPlan, proxy: FaultProxy) -> None:
    proxy.on("PutObject", key="COMMIT", lose_answer=True)
    record = factories.run_now(plan)
    proxy.assert_all_fired()
    assert (record.state, record.attempt) == ("committed", 1)


def test_slow_and_broken_parts_here_and_there_do_not_fail_a_run(
    earlier: BackupRecord, plan: BackupPlan, proxy: FaultProxy
) -> None:
    proxy.on("UploadPart", part=1, slow_seconds=1)
    proxy.on("UploadPart", part=2, reset=True)
    proxy.on("UploadPart", part=3, lose_answer=True)
    proxy.on("CompleteMultipartUpload", error_in_200=True, after=True)
    proxy.on("HeadObject", status=500)
    proxy.on("PutObject", status=503, code="SlowDown")
    record = factories.run_now(plan)
    proxy.assert_all_fired()
    assert (record.state, record.attempt) == ("committed", 1)
    proof = request_proof(record, level=3, trigger="manual", requested_by="test")
    run_proof(proof.pk, owner="test")
    proof.refresh_from_db()
    assert proof.state == "passed", proof.error


def test_a_store_that_breaks_off_while_it_is_proven_is_unknown_and_not_damaged(
    earlier: BackupRecord, proxy: FaultProxy
) -> None:
    proxy.on("GetObject", key="part-", cut_after=5 * MIB)
    proxy.on("GetObject", key="part-", status=503, code="SlowDown", times=1000)
    proof = request_proof(earlier, level=2, trigger="manual", requested_by="test")
    run_proof(proof.pk, owner="test")
    proxy.assert_all_fired()
    proof.refresh_from_db()
    assert proof.state == "unknown"
    assert earlier.artifacts.get().damaged_at is None


def test_a_disk_that_fills_up_fails_the_run_and_keeps_the_earlier_set(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        needs.leave_out(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    try:
        source = factories.files_source(tmp_path / "source", contents={"random": os.urandom(7 * MIB)})
        plan = factories.plan_of(factories.local_target(disk), [source])
        earlier = factories.run_now(plan)
        assert earlier.state == "committed", earlier.error
        record = factories.run_now(plan)
        assert (record.state, record.prefix) == ("failed", "")
        assert "no space left" in record.error
        assert_only_stored(earlier)
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        assert factories.run_now(plan).state == "committed"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
