"""The task that looks at the stores: what it notes, tidies and tells."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backups import beat, proving, tasks, watching
from backups.models import Artifact, BackupPlan, BackupRecord, ProofRun, TargetState
from backups.storage import open_target
from controlplane.kernel import clock
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.engine import seeing

pytestmark = pytest.mark.django_db(transaction=True)

ABANDONED = "sets/nightly/2026/11/01a20759-d18f-7bb7-a67d-666a2c972419"


@pytest.fixture
def plan(tmp_path: Path) -> BackupPlan:
    return factories.files_plan(tmp_path)


def age(folder: Path, hours: float) -> None:
    then = clock.now().timestamp() - hours * 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def test_it_notes_what_each_target_says(tmp_path: Path, plan: BackupPlan) -> None:
    factories.committed_set(tmp_path, plan=plan)
    seen = watching.watch()
    assert (seen.targets, seen.unreachable, seen.swept) == (1, 0, 0)
    state = TargetState.objects.get(target=plan.target)
    assert (state.reachable, state.orphan_sets, state.missing_sets, state.stale_uploads) == (True, 0, 0, 0)


def test_a_target_that_is_away_is_told_of_once_it_was_away_twice(plan: BackupPlan) -> None:
    Path(plan.target.path).rmdir()
    now = clock.now().replace(hour=9)
    watching.watch(now)
    assert not Message.objects.filter(kind="target_unreachable").exists()
    watching.watch(now + timedelta(minutes=5))
    watching.watch(now + timedelta(minutes=10))
    message = Message.objects.get(kind="target_unreachable")
    assert plan.target.name in message.title
    state = TargetState.objects.get(target=plan.target)
    assert (state.reachable, state.checked_at) == (False, now + timedelta(minutes=10))


def test_what_no_record_names_and_is_no_set_is_swept_after_two_days(tmp_path: Path, plan: BackupPlan) -> None:
    kept = factories.committed_set(tmp_path, plan=plan)
    storage, store = open_target(plan.target), Path(plan.target.path)
    storage.put(f"{ABANDONED}/files/part-00001.age", b"x" * 100)
    storage.put(f"{ABANDONED}/COMMIT", b"{}")  # the last thing that a worker which lost its run wrote
    age(store, 47)
    assert watching.tidy(plan.target, clock.now()) == 0
    age(store, 49)
    assert watching.tidy(plan.target, clock.now()) == 1
    assert set(seeing.prefixes(plan.target)) == {kept.prefix}
    assert seeing.restored_files(kept)


def test_a_whole_set_without_a_record_is_left_to_a_person(tmp_path: Path, plan: BackupPlan) -> None:
    record = factories.committed_set(tmp_path, plan=plan)
    prefix = record.prefix
    BackupRecord.objects.all().delete()
    age(Path(plan.target.path), 24 * 365)
    assert watching.watch().swept == 0
    assert set(seeing.prefixes(plan.target)) == {prefix}
    assert TargetState.objects.get(target=plan.target).orphan_sets == 1


def test_what_a_running_or_failed_run_stored_is_not_swept(plan: BackupPlan) -> None:
    storage = open_target(plan.target)
    storage.put(f"{ABANDONED}/files/part-00001.age", b"x")
    record = factories.record_of(plan, state="running", prefix=ABANDONED)
    age(Path(plan.target.path), 100)
    for state in ("running", "failed"):
        BackupRecord.objects.filter(pk=record.pk).update(state=state)
        assert watching.tidy(plan.target, clock.now()) == 0
    assert set(seeing.prefixes(plan.target)) == {ABANDONED}


def proven(plan: BackupPlan, days: float | None, *, now: datetime) -> None:
    record = factories.record_of(plan, at=now - timedelta(days=30))
    factories.artifact_of(record, l3_at=None if days is None else now - timedelta(days=days))


@pytest.mark.parametrize(("days", "told"), [(7.4, 0), (7.6, 1), (None, 1)])
def test_a_proof_older_than_seven_days_is_told_once_a_week(plan: BackupPlan, days: float | None, told: int) -> None:
    now = clock.now()
    proven(plan, days, now=now)
    for _ in range(2):
        watching.tell_of_old_proofs(now)
    assert Message.objects.filter(kind="proof_overdue").count() == told
    watching.tell_of_old_proofs(now + timedelta(days=7))
    assert Message.objects.filter(kind="proof_overdue").count() == told + 1


def test_what_is_not_possible_is_not_overdue(plan: BackupPlan) -> None:
    now = clock.now()
    proven(plan, None, now=now)
    factories.proof_of(BackupRecord.objects.get(), state="not_possible", at=now)
    watching.tell_of_old_proofs(now)
    assert not Message.objects.exists()


# --- what follows a run ----------------------------------------------------------------------------------------


def test_the_first_run_is_drilled_and_a_nightly_one_only_if_the_plan_says_so(tmp_path: Path, plan: BackupPlan) -> None:
    proving.after_run(factories.committed_set(tmp_path, plan=plan))
    assert not ProofRun.objects.filter(level=3).exists()
    plan.drill_after_backup = True
    plan.save()
    record = factories.committed_set(tmp_path, plan=plan)
    record.refresh_from_db()
    proving.after_run(BackupRecord.objects.get(pk=record.pk))
    proof = ProofRun.objects.get(level=3)
    assert (proof.record, proof.trigger, proof.state) == (record, "commit", "queued")
    first = factories.record_of(plan, trigger="first")
    factories.artifact_of(first)
    proving.after_run(first)
    assert ProofRun.objects.filter(record=first, level=3).exists()


def test_retention_looks_at_the_plan_after_each_run(tmp_path: Path, plan: BackupPlan) -> None:
    record = factories.committed_set(tmp_path, plan=plan)
    old = factories.record_of(plan, at=clock.now() - timedelta(days=40))
    factories.artifact_of(old, name=record.artifacts.get().name)
    proving.after_run(record)
    old.refresh_from_db()
    assert old.state == "expiring"
    assert TargetState.objects.get(target=plan.target).reachable


def test_the_drill_schedule_asks_for_the_newest_whole_set(tmp_path: Path, plan: BackupPlan) -> None:
    assert tasks.drill_plan.apply(kwargs={"plan_id": plan.pk}, throw=True).result == "nothing to drill"
    factories.committed_set(tmp_path, plan=plan)
    newest = factories.committed_set(tmp_path, plan=plan)
    tasks.drill_plan.apply(kwargs={"plan_id": plan.pk}, throw=True)
    proof = ProofRun.objects.get()
    assert (proof.record, proof.level, proof.trigger) == (newest, 3, "schedule")


def test_every_tick_runs_on_an_installation_without_anything() -> None:
    for spec in tasks.SCHEDULES:
        task = getattr(tasks, spec.name.removeprefix("backups."))
        assert task.name == spec.task
        task.apply(throw=True)
    assert not Artifact.objects.exists()


def test_a_task_runs_a_backup_to_its_end(plan: BackupPlan) -> None:
    from backups.engine.requests import request_backup

    record = request_backup(plan, trigger="manual")
    assert record is not None
    assert tasks.run_backup.apply(args=[record.pk], throw=True).result == "committed"
    assert tasks.run_backup.apply(args=[record.pk], throw=True).result == "not due, or taken"
    BackupRecord.objects.filter(pk=record.pk).update(state="deleting", due_at=clock.now())
    record.refresh_from_db()
    assert tasks.delete_set.apply(args=[record.pk], throw=True).result == f"{record.stored_bytes} bytes freed"


def test_no_task_that_may_take_hours_is_delivered_twice() -> None:
    for task in (tasks.run_backup, tasks.run_proof, tasks.run_restore):
        assert (task.acks_late, task.reject_on_worker_lost, task.time_limit) == (False, False, 86400)


def test_an_enabled_plan_whose_schedule_was_disabled_is_told_of_once_a_week(tmp_path: Path, plan: BackupPlan) -> None:
    task = beat.write_schedule(plan, beat.Times("0 2 * * *", "UTC", True))
    plan.refresh_from_db()
    later = clock.now() + timedelta(hours=plan.rpo_hours + 1)
    watching.tell_of_silent_plans(later)
    assert not Message.objects.filter(kind="backup_missed").exists()  # its runs will come
    task.enabled = False
    task.save()
    watching.tell_of_silent_plans(clock.now())
    assert not Message.objects.filter(kind="backup_missed").exists()  # its last set is young enough
    watching.tell_of_silent_plans(later)
    watching.tell_of_silent_plans(later + timedelta(minutes=5))
    assert (
        Message.objects.get(kind="backup_missed").title == f"The plan {plan.name} is enabled, and its schedule is not"
    )
