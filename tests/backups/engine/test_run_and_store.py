"""A run whose store is full, breaks off, or is away."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backups import keys
from backups.engine.recover import tend_backups
from backups.engine.run import run_backup
from backups.errors import StorageUnavailable
from backups.storage.local import LocalStorage
from controlplane.kernel import clock
from tests.backups import factories
from tests.backups.engine import seeing
from tests.backups.engine.plans import assert_it_left_nothing, ended, toy_plan

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("toy_kind")]


def test_a_full_disk_fails_the_run_and_leaves_the_earlier_sets(tmp_path: Path) -> None:
    small = small_disk()
    keys.ensure_keys()
    target = factories.local_target(small / f"store-{factories.short()}")
    plan = factories.plan_of(target, [factories.files_source(tmp_path / "source")])
    try:
        earlier = factories.committed_set(tmp_path, plan=plan)
        (tmp_path / "source" / "big").write_bytes(os.urandom(24 * 2**20))
        record = factories.run_now(plan)
        state, error = ended(record)
        assert state == "failed"
        assert "space" in error.lower()
        assert_it_left_nothing(record)
        assert sorted(seeing.restored_files(earlier)) == ["a.txt", "sub/b.bin"]
    finally:
        import shutil

        shutil.rmtree(target.path)


def small_disk() -> Path:
    """A file system of 16 MiB; a test that cannot have one is left out."""
    import subprocess

    from tests import needs

    where = Path(os.environ["ZANTARA_TEST_ROOT"]) / "small-disk"
    where.mkdir(exist_ok=True)
    if where.is_mount():
        return where
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(where)], check=False, capture_output=True
    )
    if done.returncode:
        needs.leave_out("mounting a small file system is not allowed here")
    import atexit

    atexit.register(subprocess.run, ["umount", "-l", str(where)], capture_output=True)
    return where


def test_a_store_that_breaks_off_at_the_commit_after_taking_it_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, broken = LocalStorage.put, []

    def put_and_break(self: LocalStorage, key: str, body: bytes) -> None:
        put(self, key, body)
        if key.endswith("/COMMIT"):
            broken.append(key)
            raise StorageUnavailable("The connection was reset.")

    monkeypatch.setattr(LocalStorage, "put", put_and_break)
    record = factories.run_now(factories.files_plan(tmp_path))
    assert (ended(record)[0], len(broken)) == ("committed", 1)
    assert seeing.restored_files(record)


def test_a_commit_of_which_nothing_is_known_is_settled_by_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStorage.put
    away = StorageUnavailable("The connection was reset.")

    def put_and_vanish(self: LocalStorage, key: str, body: bytes) -> None:
        put(self, key, body)
        if key.endswith("/COMMIT"):
            monkeypatch.setattr(LocalStorage, "stat", vanish)
            raise away

    def vanish(*_: Any) -> None:
        raise away

    stat = LocalStorage.stat
    monkeypatch.setattr(LocalStorage, "put", put_and_vanish)
    record = factories.run_now(factories.files_plan(tmp_path))
    assert record.state == "running"
    monkeypatch.setattr(LocalStorage, "put", put)
    monkeypatch.setattr(LocalStorage, "stat", stat)
    tended = tend_backups(clock.now() + timedelta(seconds=61))
    assert (tended.committed, ended(record)[0]) == (1, "committed")
    assert seeing.restored_files(record)


def test_a_store_that_is_away_is_tried_again_and_what_it_kept_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStorage.put

    def refuse(self: LocalStorage, key: str, body: bytes) -> None:
        raise StorageUnavailable("The server said 503.")

    monkeypatch.setattr(LocalStorage, "put", refuse)
    record = factories.run_now(factories.files_plan(tmp_path))
    state, error = ended(record)
    assert (state, record.attempt, "503" in error) == ("queued", 1, True)
    assert seeing.left_over(record.target) == []
    monkeypatch.setattr(LocalStorage, "put", put)
    run_backup(record.pk, owner="test", now=record.due_at)
    assert ended(record)[0] == "committed"


def test_what_could_not_be_taken_back_is_taken_back_by_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = LocalStorage.delete
    monkeypatch.setattr(LocalStorage, "delete", lambda self, keys: dict.fromkeys(keys, "read-only"))
    record = factories.run_now(toy_plan(tmp_path, {"exit": 1}))
    assert (ended(record)[0], record.prefix != "") == ("failed", True)
    assert seeing.left_over(record.target) != []
    assert tend_backups().cleaned == 0
    assert ended(record)[0] == "failed"
    monkeypatch.setattr(LocalStorage, "delete", delete)
    assert tend_backups().cleaned == 1
    record.refresh_from_db()
    assert_it_left_nothing(record)
