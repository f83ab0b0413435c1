"""A worker is killed at every step that there is; nobody unlocks anything, and what was whole stays whole."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from backups.engine import steps
from backups.engine.recover import tend_backups
from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.models import BackupEvent, BackupPlan, BackupRecord
from controlplane.kernel import clock
from tests.backups import factories
from tests.backups.engine import seeing

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]

CONTENTS = {"notes.txt": b"kept\n" * 1000, "deep/er/data.bin": bytes(range(256)) * 8192}
#: Steps after which the set exists in the store: the kill costs nothing but the last word in the row.
WHOLE_AFTER = {"commit_stored", "row_committed"}


@pytest.fixture
def plan(tmp_path: Path) -> BackupPlan:
    return factories.files_plan(tmp_path, contents=CONTENTS)


@pytest.fixture
def earlier(tmp_path: Path, plan: BackupPlan) -> BackupRecord:
    return factories.committed_set(tmp_path, plan=plan)


def requested(plan: BackupPlan) -> BackupRecord:
    record = request_backup(plan, trigger="manual")
    assert record is not None
    return record


def carried_to_its_end(record: BackupRecord) -> BackupRecord:
    """What the ticks and workers of the next minutes do; no person, no other command."""
    now = clock.now()
    for _ in range(4):
        now += timedelta(seconds=61)
        tend_backups(now)
        record.refresh_from_db()
        if record.state != "queued":
            break
        now = max(now, record.due_at)
        run_backup(record.pk, owner="next", now=now)
        record.refresh_from_db()
        if record.state not in ("queued", "running"):
            break
    tend_backups(now + timedelta(seconds=61))
    record.refresh_from_db()
    return record


def assert_all_is_well(record: BackupRecord, earlier: BackupRecord) -> None:
    assert (record.state, record.lease_owner, record.lease_expires_at) == ("committed", "", None)
    assert seeing.restored_files(record) == CONTENTS
    assert seeing.restored_files(earlier) == CONTENTS
    assert seeing.half_visible(record.target) == []
    assert seeing.left_over(record.target) == []


@pytest.mark.parametrize("step", steps.RUN_STEPS)
def test_a_worker_killed_in_a_run_costs_an_attempt_and_no_more(
    step: str, tmp_path: Path, plan: BackupPlan, earlier: BackupRecord
) -> None:
    record = requested(plan)

    seeing.killed_at(step, "run", record.pk, tmp_path / "killed")

    assert seeing.half_visible(record.target) == []
    assert seeing.restored_files(earlier) == CONTENTS
    record.refresh_from_db()
    expected = {"leased": "queued", "row_committed": "committed"}.get(step, "running")
    assert record.state == expected
    carried_to_its_end(record)
    assert_all_is_well(record, earlier)
    assert record.attempt == (1 if step in WHOLE_AFTER | {"leased"} else 2)
    moves = BackupEvent.objects.filter(subject=record, to_state="committed").exclude(from_state="committed")
    assert moves.count() == 1


@pytest.mark.parametrize("step", ["undo_begun", "objects_undone"])
def test_a_worker_killed_while_it_takes_back_a_failed_run_leaves_nothing(
    step: str, tmp_path: Path, plan: BackupPlan, earlier: BackupRecord
) -> None:
    broken = factories.files_source(tmp_path / "gone", contents={"x": b"1"}, name="zz-broken")
    plan.sources.add(broken)
    broken.settings = {"base": str(tmp_path / "nowhere"), "patterns": "*"}
    broken.save()
    record = requested(plan)

    seeing.killed_at(step, "run", record.pk, tmp_path / "killed")

    record.refresh_from_db()
    assert record.state == "running"
    plan.sources.remove(broken)
    carried_to_its_end(record)
    assert_all_is_well(record, earlier)


@pytest.mark.parametrize("step", ["recovery_judged", "undo_begun", "commit_deleted", "objects_undone"])
def test_a_recovery_that_is_killed_itself_is_done_again(
    step: str, tmp_path: Path, plan: BackupPlan, earlier: BackupRecord
) -> None:
    record = requested(plan)
    seeing.killed_at("manifest_stored", "run", record.pk, tmp_path / "killed")

    seeing.killed_at(step, "tend", 0, tmp_path / "killed")

    record.refresh_from_db()
    assert (record.state, record.lease_owner) == ("running", "recovery")
    BackupRecord.objects.filter(pk=record.pk).update(lease_expires_at=clock.now())  # a minute passes
    carried_to_its_end(record)
    assert_all_is_well(record, earlier)


def test_a_recovery_that_is_killed_after_it_found_a_whole_set_finds_it_again(
    tmp_path: Path, plan: BackupPlan, earlier: BackupRecord
) -> None:
    record = requested(plan)
    seeing.killed_at("commit_stored", "run", record.pk, tmp_path / "killed")
    seeing.killed_at("recovery_judged", "tend", 0, tmp_path / "killed")
    BackupRecord.objects.filter(pk=record.pk).update(lease_expires_at=clock.now())

    carried_to_its_end(record)

    assert_all_is_well(record, earlier)
    assert record.attempt == 1


@pytest.mark.parametrize("step", steps.DELETE_STEPS)
def test_a_deletion_that_is_killed_never_leaves_a_set_that_looks_whole(
    step: str, tmp_path: Path, plan: BackupPlan, earlier: BackupRecord
) -> None:
    victim = factories.committed_set(tmp_path, plan=plan)

    seeing.killed_at(step, "delete", victim.pk, tmp_path / "killed")

    assert seeing.half_visible(victim.target) == []
    victim.refresh_from_db()
    assert victim.state == ("deleted" if step == "row_deleted" else "deleting")
    from backups.engine.deleting import delete_set

    if step != "row_deleted":
        assert delete_set(victim.pk, now=clock.now() + timedelta(minutes=3)) == victim.stored_bytes
    victim.refresh_from_db()
    assert (victim.state, victim.freed_bytes, victim.lease_expires_at) == ("deleted", victim.stored_bytes, None)
    assert set(seeing.prefixes(victim.target)) == {earlier.prefix}
    assert seeing.restored_files(earlier) == CONTENTS


def test_every_step_has_its_kill() -> None:
    killed = {
        *steps.RUN_STEPS, *steps.DELETE_STEPS,
        "undo_begun", "objects_undone", "recovery_judged",
    }  # fmt: skip
    assert set(steps.STEPS) == killed
