"""The tick: lost workers, stores that are away, things left behind; nobody ever unlocks anything."""

from __future__ import annotations

import ast
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backups.engine import steps
from backups.engine.capture import scratch_root
from backups.engine.recover import recover, tend_backups
from backups.engine.requests import request_backup, request_cancel
from backups.engine.run import run_backup
from backups.errors import StorageUnavailable
from backups.models import BackupPlan, BackupRecord
from backups.storage import open_target
from backups.storage.local import LocalStorage
from controlplane.kernel import clock, leases
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.engine import seeing

pytestmark = pytest.mark.django_db(transaction=True)

MINUTE = timedelta(minutes=1)


@pytest.fixture
def plan(tmp_path: Path) -> BackupPlan:
    return factories.files_plan(tmp_path)


def lost(plan: BackupPlan, *, trigger: str = "manual", attempt: int = 1, **columns: Any) -> BackupRecord:
    """A run whose worker died in the middle, with a part and a manifest of it in the store."""
    record = factories.record_of(
        plan, state="running", at=clock.now(), trigger=trigger, attempt=attempt,
        lease_owner="dead", lease_token=7, lease_expires_at=clock.now() + MINUTE, **columns,
    )  # fmt: skip
    record.prefix = f"sets/{plan.name}/2026/11/{record.set_id}"
    record.save()
    storage = open_target(plan.target)
    storage.put(f"{record.prefix}/files/part-00001.age", b"half of it")
    storage.put(f"{record.prefix}/manifest.json", b"{}")
    return record


def after(record: BackupRecord) -> str:
    record.refresh_from_db()
    assert record.lease_expires_at is None
    return record.state


def away(*_: Any, **__: Any) -> Any:
    raise StorageUnavailable("The server said 503.")


def test_a_living_worker_is_left_alone(plan: BackupPlan) -> None:
    record = lost(plan)
    tended = tend_backups(clock.now() + timedelta(seconds=59))
    assert (tended.repeated, tended.ended, tended.committed) == (0, 0, 0)
    record.refresh_from_db()
    assert (record.state, record.lease_owner, record.lease_token) == ("running", "dead", 7)


def test_a_lost_run_is_taken_back_and_queued_again_with_a_wait(plan: BackupPlan) -> None:
    record, now = lost(plan), clock.now() + 2 * MINUTE
    assert tend_backups(now).repeated == 1
    assert after(record) == "queued"
    assert (record.due_at, record.prefix, record.set_id, record.lease_token) == (now + MINUTE, "", None, 8)
    assert "worker was lost" in record.error
    assert seeing.prefixes(plan.target) == {}
    assert not Message.objects.exists()
    assert run_backup(record.pk, owner="next", now=now) is None, "not before its time"
    run_backup(record.pk, owner="next", now=record.due_at)
    assert after(record) == "committed"
    assert record.error == ""


def test_after_three_attempts_it_is_given_up_and_told(plan: BackupPlan) -> None:
    record = lost(plan, attempt=3)
    assert tend_backups(clock.now() + 2 * MINUTE).ended == 1
    assert (after(record), record.prefix) == ("failed", "")
    assert Message.objects.get().key == f"backup_failed:{record.name}"
    assert seeing.prefixes(plan.target) == {}


def test_a_lost_run_that_somebody_wanted_to_stop_is_cancelled(plan: BackupPlan) -> None:
    record = lost(plan)
    assert request_cancel(record, actor="ada") == "requested"
    tend_backups(clock.now() + 2 * MINUTE)
    assert after(record) == "cancelled"
    assert seeing.prefixes(plan.target) == {}
    assert not Message.objects.exists()


def test_a_lost_safety_backup_is_not_tried_again(plan: BackupPlan) -> None:
    record = lost(plan, trigger="safety")
    tend_backups(clock.now() + 2 * MINUTE)
    assert after(record) == "failed"


def test_a_safety_backup_that_nobody_came_for_goes_and_keeps_no_run_from_beginning(plan: BackupPlan) -> None:
    record = request_backup(plan, trigger="safety")
    assert record is not None
    assert tend_backups(clock.now() + 59 * MINUTE).sent == 0
    by_hand = request_backup(plan, trigger="manual")
    assert by_hand is not None
    run_backup(by_hand.pk, owner="test")
    tend_backups(clock.now() + 61 * MINUTE)
    assert after(record) == "cancelled"


def test_while_the_store_is_away_the_run_waits_for_its_judgement(
    plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = lost(plan)
    get = LocalStorage.get
    monkeypatch.setattr(LocalStorage, "get", away)
    for minutes in (2, 3, 60):
        tended = tend_backups(clock.now() + minutes * MINUTE)
        assert (tended.repeated, tended.ended) == (0, 0)
        assert after(record) == "running"
    monkeypatch.setattr(LocalStorage, "get", get)
    assert tend_backups(clock.now() + 61 * MINUTE).repeated == 1


def test_a_store_that_stays_away_for_a_day_ends_the_run_and_is_cleaned_when_it_is_back(
    plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = lost(plan)
    get = LocalStorage.get
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "get", away)
        patched.setattr(LocalStorage, "list", away)
        assert tend_backups(clock.now() + timedelta(hours=25)).ended == 1
        assert (after(record), record.prefix != "") == ("failed", True)
        assert Message.objects.filter(kind="backup_failed").count() == 1
    assert LocalStorage.get is get
    assert tend_backups(clock.now() + timedelta(hours=26)).cleaned == 1
    assert (after(record), record.prefix) == ("failed", "")
    assert seeing.prefixes(plan.target) == {}


def test_a_commit_that_is_not_ours_is_no_commit(plan: BackupPlan) -> None:
    record = lost(plan)
    open_target(plan.target).put(f"{record.prefix}/COMMIT", b'{"manifest_sha256":"00","set_id":"x"}')
    tend_backups(clock.now() + 2 * MINUTE)
    assert after(record) == "queued"
    assert seeing.prefixes(plan.target) == {}


def test_two_ticks_at_once_judge_a_lost_run_once(plan: BackupPlan) -> None:
    record, now = lost(plan), clock.now() + 2 * MINUTE
    taken = leases.acquire(BackupRecord, record.pk, owner="another tick", ttl_seconds=60, now=now)
    assert taken is not None
    assert recover(record.pk, now) == ""
    record.refresh_from_db()
    assert (record.state, record.lease_owner) == ("running", "another tick")
    assert record.prefix in seeing.prefixes(plan.target)


def test_a_tick_that_was_overtaken_while_it_judged_undoes_nothing(
    plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, now = lost(plan), clock.now() + 2 * MINUTE

    def overtaken(storage: Any, one: BackupRecord) -> None:
        assert leases.acquire(BackupRecord, one.pk, owner="another", ttl_seconds=60, now=now + 2 * MINUTE) is not None

    monkeypatch.setattr("backups.engine.recover.committed_set", overtaken)
    assert recover(record.pk, now) == ""
    record.refresh_from_db()
    assert (record.state, record.lease_owner) == ("running", "another")
    assert record.prefix in seeing.prefixes(plan.target)


def test_directories_of_attempts_that_are_over_are_removed_after_an_hour(plan: BackupPlan) -> None:
    record = lost(plan)
    ours, stray, young = (scratch_root() / name for name in (str(record.set_id), "stray", "young"))
    for path in (ours, stray, young):
        (path / "deep").mkdir(parents=True)
    then = clock.now().timestamp() - 3700
    for path in (ours, stray):
        os.utime(path, (then, then))
    tend_backups()
    assert (ours.exists(), stray.exists(), young.exists()) == (True, False, True)
    for path in (ours, young):
        for inner in sorted(path.rglob("*"), reverse=True):
            inner.rmdir()
        path.rmdir()


def test_one_row_that_breaks_the_tick_does_not_keep_the_others_from_it(
    plan: BackupPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = lost(plan), lost(factories.files_plan(tmp_path / "other"))
    calls: list[int] = []

    def judge(storage: Any, one: BackupRecord) -> None:
        calls.append(one.pk)
        if one.pk == first.pk:
            raise KeyError("a defect")

    monkeypatch.setattr("backups.engine.recover.committed_set", judge)
    assert tend_backups(clock.now() + 2 * MINUTE).repeated == 1
    assert calls == [first.pk, second.pk]
    second.refresh_from_db()
    assert second.state == "queued"


def test_the_named_steps_are_those_of_the_code_and_no_others() -> None:
    named = set()
    for path in Path("backups/engine").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "step_reached":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant), f"{path}: a step has its name in the code"
                named.add(argument.value)
    assert named == set(steps.STEPS)
    assert len(steps.STEPS) == len(set(steps.STEPS))
