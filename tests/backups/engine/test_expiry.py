"""Retention carried out: marks, undo, deletion in the store, tombstones, and when nothing may go."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backups.engine import expiry
from backups.engine.deleting import delete_set
from backups.errors import StorageUnavailable
from backups.models import BackupEvent, BackupPlan, BackupRecord, PlanState, RestoreRecord
from backups.retention import Rules
from backups.storage.local import LocalStorage
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.engine import seeing

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)


@pytest.fixture
def plan(tmp_path: Path) -> BackupPlan:
    return factories.files_plan(tmp_path, keep_within_days=0, keep_last=2)


def real_sets(tmp_path: Path, plan: BackupPlan, count: int) -> list[BackupRecord]:
    """Real sets, made now, aged by a day each in the rows; the oldest first."""
    records = [factories.committed_set(tmp_path, plan=plan) for _ in range(count)]
    now = clock.now()
    for number, record in enumerate(records):
        at = now - (count - 1 - number) * DAY - timedelta(hours=1)
        BackupRecord.objects.filter(pk=record.pk).update(committed_at=at, started_at=at)
        record.refresh_from_db()
    return records


def rows(plan: BackupPlan, count: int, *, at: datetime | None = None, **columns: Any) -> list[BackupRecord]:
    """Rows alone, a day apart; the oldest first."""
    newest = at or clock.now() - timedelta(hours=1)
    found = []
    for number in range(count):
        record = factories.record_of(plan, at=newest - (count - 1 - number) * DAY, **columns)
        factories.artifact_of(record)
        found.append(record)
    return found


def states(records: list[BackupRecord]) -> list[str]:
    for record in records:
        record.refresh_from_db()
    return [record.state for record in records]


# --- two phases ------------------------------------------------------------------------------------------------


def test_a_set_is_marked_then_a_day_later_deleted_and_kept_as_a_tombstone(tmp_path: Path, plan: BackupPlan) -> None:
    records = real_sets(tmp_path, plan, 3)
    now = clock.now()

    report = expiry.expire_plan(plan, now)

    assert (report.marked, report.deleted, report.freed_bytes) == (1, 0, 0)
    assert states(records) == ["expiring", "committed", "committed"]
    assert records[0].expires_at == now + DAY
    assert records[2].keep_reasons == ["the newest", "last committed, as none is verified"]
    assert seeing.restored_files(records[0]), "until then it is all there"

    assert expiry.expire_plan(plan, now + DAY - timedelta(seconds=1)).deleted == 0
    report = expiry.expire_plan(plan, now + DAY)

    assert (report.deleted, report.freed_bytes, report.waiting) == (1, records[0].stored_bytes, 0)
    assert states(records) == ["deleted", "committed", "committed"]
    tombstone = records[0]
    assert (tombstone.freed_bytes, tombstone.name != "", tombstone.artifacts.count()) == (
        tombstone.stored_bytes, True, 1,
    )  # fmt: skip
    assert set(seeing.prefixes(plan.target)) == {records[1].prefix, records[2].prefix}
    assert seeing.restored_files(records[2])
    moves = BackupEvent.objects.filter(subject=tombstone).values_list("to_state", "actor")
    assert list(moves)[-3:] == [("expiring", "retention"), ("deleting", "retention"), ("deleted", "retention")]


def test_doing_it_twice_is_the_same_as_once(tmp_path: Path, plan: BackupPlan) -> None:
    records = rows(plan, 5)
    now = clock.now()
    assert expiry.expire_plan(plan, now).marked == 3
    assert expiry.expire_plan(plan, now).marked == 0
    assert states(records) == ["expiring"] * 3 + ["committed"] * 2


def test_the_preview_says_what_would_happen_and_changes_nothing(plan: BackupPlan) -> None:
    records = rows(plan, 4)
    judged = expiry.preview_retention(plan, Rules(keep_last=1))
    assert [(one.record, one.keep) for one in judged] == [
        (records[3], True), (records[2], False), (records[1], False), (records[0], False),
    ]  # fmt: skip
    assert states(records) == ["committed"] * 4
    assert records[3].keep_reasons == []
    with pytest.raises(Refused, match="would keep nothing"):
        expiry.preview_retention(plan, Rules())


def test_undo_takes_the_mark_back_for_good(plan: BackupPlan) -> None:
    records = rows(plan, 3)
    now = clock.now()
    expiry.expire_plan(plan, now)
    expiry.undo_expiry(records[0], "ada", now)
    assert expiry.expire_plan(plan, now + 2 * DAY - timedelta(hours=2)).deleted == 0
    assert states(records) == ["committed"] * 3
    assert (records[0].pinned_by, records[0].keep_reasons) == ("ada", ["pinned"])
    with pytest.raises(Refused, match="not marked"):
        expiry.undo_expiry(records[0], "ada", now)


def test_a_rule_that_is_loosened_takes_marks_back(plan: BackupPlan) -> None:
    records = rows(plan, 4)
    now = clock.now()
    expiry.expire_plan(plan, now)
    plan.keep_last = 3
    plan.save()
    report = expiry.expire_plan(plan, now)
    assert (report.unmarked, report.marked) == (1, 0)
    assert states(records) == ["expiring", "committed", "committed", "committed"]


# --- deletions that fail ---------------------------------------------------------------------------------------


def test_a_delete_that_fails_is_tried_again_later_and_never_forgotten(
    tmp_path: Path, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = real_sets(tmp_path, plan, 3)
    now = clock.now()
    expiry.expire_plan(plan, now)
    delete = LocalStorage.delete
    asked: list[int] = []

    def refuse(self: LocalStorage, keys: Any) -> dict[str, str]:
        asked.append(len(keys))
        return dict.fromkeys(keys, "the disk is read-only")

    monkeypatch.setattr(LocalStorage, "delete", refuse)
    now += DAY
    report = expiry.expire_plan(plan, now)
    assert (report.deleted, report.freed_bytes, report.waiting, len(asked)) == (0, 0, 1, 1)
    (victim, *_) = records
    assert states(records)[0] == "deleting"
    assert (victim.delete_attempts, victim.due_at, "read-only" in victim.delete_error) == (
        1, now + timedelta(minutes=1), True,
    )  # fmt: skip
    assert victim.lease_expires_at is None
    assert expiry.expire_plan(plan, now + timedelta(seconds=30)).waiting == 1
    assert len(asked) == 1, "not before its time"
    expiry.expire_plan(plan, now + timedelta(minutes=1))
    victim.refresh_from_db()
    assert (victim.delete_attempts, victim.due_at) == (2, now + timedelta(minutes=3))
    monkeypatch.setattr(LocalStorage, "delete", delete)
    assert expiry.expire_plan(plan, now + timedelta(minutes=4)).freed_bytes == victim.stored_bytes
    assert states(records)[0] == "deleted"
    assert victim.prefix not in seeing.prefixes(plan.target)


def test_a_store_that_says_gone_while_something_is_left_is_not_believed(
    tmp_path: Path, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = factories.committed_set(tmp_path, plan=plan)
    BackupRecord.objects.filter(pk=record.pk).update(state="deleting", due_at=clock.now())
    monkeypatch.setattr(LocalStorage, "delete", lambda self, keys: {})
    assert delete_set(record.pk) is None
    record.refresh_from_db()
    assert (record.state, "still in the store" in record.delete_error) == ("deleting", True)


def test_commit_goes_first(tmp_path: Path, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    record = factories.committed_set(tmp_path, plan=plan)
    BackupRecord.objects.filter(pk=record.pk).update(state="deleting", due_at=clock.now())
    delete, order = LocalStorage.delete, []

    def note(self: LocalStorage, keys: Any) -> dict[str, str]:
        order.append([key.rsplit("/", 1)[-1] for key in keys])
        return delete(self, keys)

    monkeypatch.setattr(LocalStorage, "delete", note)
    assert delete_set(record.pk) == record.stored_bytes
    assert order[0] == ["COMMIT"]
    assert sorted(order[1]) == ["expectations.json.zst.age", "manifest.json", "part-00001.age"]


def test_two_workers_at_one_deletion_free_its_bytes_once(tmp_path: Path, plan: BackupPlan) -> None:
    record = factories.committed_set(tmp_path, plan=plan)
    BackupRecord.objects.filter(pk=record.pk).update(
        state="deleting", due_at=clock.now(), lease_expires_at=clock.now() + timedelta(minutes=1), lease_owner="other"
    )
    assert delete_set(record.pk) is None
    assert record.prefix in seeing.prefixes(plan.target)


# --- what never goes -------------------------------------------------------------------------------------------


def test_pinned_sets_stay_until_they_are_unpinned(plan: BackupPlan) -> None:
    records = rows(plan, 3)
    expiry.pin(records[0], actor="ada", reason="before the migration")
    assert expiry.expire_plan(plan).marked == 0
    expiry.unpin(records[0], actor="ada")
    assert expiry.expire_plan(plan).marked == 1
    expiry.pin(records[0], actor="ada", reason="once more")
    assert states(records)[0] == "committed", "pinning takes the mark back"
    with pytest.raises(Refused, match="not pinned"):
        expiry.unpin(records[1], actor="ada")


def test_what_a_restore_or_a_running_proof_reads_stays_and_a_waiting_proof_holds_nothing(plan: BackupPlan) -> None:
    records = rows(plan, 6)
    restore = RestoreRecord.objects.create(
        name="zantara-restore-2026-11-23", record=records[0], safety_record=records[1], state="restoring",
        requested_by="ada", reason="test", created_at=clock.now(), due_at=clock.now(),
    )  # fmt: skip
    factories.proof_of(records[2], state="running")
    factories.proof_of(records[3], state="queued")
    assert expiry.expire_plan(plan).marked == 1
    assert states(records) == ["committed"] * 3 + ["expiring"] + ["committed"] * 2
    assert records[0].keep_reasons == records[1].keep_reasons == ["in use by zantara-restore-2026-11-23"]
    assert records[2].keep_reasons == ["in use by a proof (L3)"]
    with pytest.raises(Refused, match="in use by zantara-restore"):
        expiry.delete_now(records[1], actor="ada", reason="space")
    RestoreRecord.objects.filter(pk=restore.pk).update(state="done")
    assert expiry.expire_plan(plan).marked == 2


def test_a_mark_is_not_carried_out_while_something_reads_the_set(plan: BackupPlan) -> None:
    records = rows(plan, 3)
    now = clock.now()
    expiry.expire_plan(plan, now)
    proof = factories.proof_of(records[0], state="running")
    assert expiry.expire_plan(plan, now + DAY).deleted == 0
    assert states(records)[0] == "expiring"
    type(proof).objects.filter(pk=proof.pk).update(state="passed")
    assert expiry.expire_plan(plan, now + DAY).deleted == 1


def test_the_last_verified_set_stays_and_may_not_be_deleted_by_hand_either(plan: BackupPlan) -> None:
    records = rows(plan, 4)
    records[0].artifacts.update(l2_at=clock.now())
    assert expiry.expire_plan(plan).marked == 1
    assert states(records) == ["committed", "expiring", "committed", "committed"]
    assert records[0].keep_reasons == ["last verified"]
    with pytest.raises(Refused, match="known to restore"):
        expiry.delete_now(records[0], actor="ada", reason="space")
    records[3].artifacts.update(l3_at=clock.now())
    assert expiry.expire_plan(plan).marked == 1
    assert states(records)[0] == "expiring"


def test_a_set_that_is_deleted_by_hand_goes_past_the_rules(tmp_path: Path, plan: BackupPlan) -> None:
    records = real_sets(tmp_path, plan, 2)
    expiry.delete_now(records[0], actor="ada", reason="holds a password")
    assert states(records) == ["deleting", "committed"]
    assert delete_set(records[0].pk) == records[0].stored_bytes
    event = BackupEvent.objects.filter(subject=records[0], to_state="deleting").get()
    assert (event.actor, event.reason) == ("ada", "holds a password")
    with pytest.raises(Refused, match="cannot be deleted"):
        expiry.delete_now(records[0], actor="ada", reason="again")
    expiry.pin(records[1], actor="ada", reason="mine")
    with pytest.raises(Refused, match="is pinned"):
        expiry.delete_now(records[1], actor="bob", reason="space")


def test_only_committed_sets_count(plan: BackupPlan) -> None:
    kept = rows(plan, 2)
    others = [
        factories.record_of(plan, at=clock.now() - timedelta(minutes=5), state=state)
        for state in ("failed", "cancelled", "running", "queued", "deleted")
    ]
    assert expiry.expire_plan(plan).marked == 0
    assert states(kept) == ["committed"] * 2
    assert states(others) == ["failed", "cancelled", "running", "queued", "deleted"]


def test_plans_do_not_touch_each_others_sets(plan: BackupPlan, tmp_path: Path) -> None:
    other = factories.files_plan(tmp_path / "other", keep_last=1, keep_within_days=0)
    mine, theirs = rows(plan, 2), rows(other, 3)
    reports = expiry.expire_all()
    assert (reports[plan.name].marked, reports[other.name].marked) == (0, 2)
    assert states(mine) == ["committed"] * 2
    assert states(theirs) == ["expiring", "expiring", "committed"]


def test_sets_that_are_not_replaced_by_newer_ones_do_not_go(plan: BackupPlan) -> None:
    records = rows(plan, 4, at=clock.now() - 10 * DAY)
    report = expiry.expire_plan(plan)
    assert (report.marked, "until there is a new one" in report.frozen) == (0, True)
    assert states(records) == ["committed"] * 4
    factories.artifact_of(factories.record_of(plan, at=clock.now() - timedelta(hours=1)))
    assert expiry.expire_plan(plan).marked == 3


# --- an unusual drop -------------------------------------------------------------------------------------------


def sized(plan: BackupPlan, sizes: list[int], *, rows: list[int] | None = None) -> list[BackupRecord]:
    found = []
    for number, size in enumerate(sizes):
        record = factories.record_of(plan, at=clock.now() - (len(sizes) - number) * DAY + timedelta(hours=20))
        factories.artifact_of(record, plain_bytes=size, summary={"rows": rows[number]} if rows else {})
        found.append(record)
    return found


def test_an_unusual_drop_freezes_the_plan_and_is_told_once(plan: BackupPlan) -> None:
    records = sized(plan, [1000, 1100, 1000, 900, 1000, 400])
    for _ in range(2):
        report = expiry.expire_plan(plan)
        assert (report.marked, report.frozen) == (0, "It holds 400 bytes, 60 % less than usual (1000).")
    assert states(records) == ["committed"] * 6
    assert PlanState.objects.get(plan=plan).retention_frozen_at is not None
    message = Message.objects.get(kind="retention_frozen")
    assert (message.key, plan.name in message.title) == (f"retention_frozen:{records[-1].name}", True)


def test_rows_freeze_it_as_bytes_do(plan: BackupPlan) -> None:
    sized(plan, [1000] * 4, rows=[500, 500, 500, 100])
    assert expiry.expire_plan(plan).frozen == "files holds 100 rows, 80 % less than usual (500)."


def test_while_it_is_frozen_even_a_mark_from_before_is_not_carried_out(plan: BackupPlan) -> None:
    records = sized(plan, [1000] * 5)
    now = clock.now()
    assert expiry.expire_plan(plan, now).marked == 3
    factories.artifact_of(factories.record_of(plan, at=now), plain_bytes=1)
    assert expiry.expire_plan(plan, now + DAY).frozen
    assert states(records) == ["expiring"] * 3 + ["committed"] * 2


def test_accepting_the_new_size_lets_it_go_on_and_makes_it_the_measure(plan: BackupPlan) -> None:
    with pytest.raises(Refused, match="not frozen"):
        expiry.unfreeze(plan, "ada", "nothing")
    records = sized(plan, [1000] * 5 + [400])
    expiry.expire_plan(plan)
    expiry.unfreeze(plan, "ada", "we archived last year")
    assert expiry.expire_plan(plan).marked == 4
    assert PlanState.objects.get(plan=plan).retention_frozen_reason == ""
    note = BackupEvent.objects.filter(subject=records[-1], actor="ada").get()
    assert note.reason == "its size was accepted: we archived last year"
    newer = factories.record_of(plan, at=clock.now() - timedelta(minutes=30))
    factories.artifact_of(newer, plain_bytes=390)
    assert expiry.expire_plan(plan).frozen == "", "small is usual now"
    newest = factories.record_of(plan, at=clock.now() - timedelta(minutes=10))
    factories.artifact_of(newest, plain_bytes=100)
    assert "75 % less" in expiry.expire_plan(plan).frozen


def test_a_run_of_some_sources_is_no_drop(plan: BackupPlan) -> None:
    sized(plan, [1000] * 4)
    part = factories.record_of(plan, at=clock.now() - timedelta(minutes=30), only_sources=["files"])
    factories.artifact_of(part, plain_bytes=1)
    assert expiry.expire_plan(plan).frozen == ""


def test_an_empty_policy_deletes_nothing(plan: BackupPlan) -> None:
    records = rows(plan, 4)
    BackupPlan.objects.filter(pk=plan.pk).update(keep_last=0)
    plan.refresh_from_db()
    with pytest.raises(Refused, match="would keep nothing"):
        expiry.expire_plan(plan)
    assert expiry.expire_all() == {}
    assert states(records) == ["committed"] * 4


def test_a_store_that_is_away_stops_nothing_else(
    tmp_path: Path, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = real_sets(tmp_path, plan, 3)
    now = clock.now()
    expiry.expire_plan(plan, now)

    def away(*_: Any) -> None:
        raise StorageUnavailable("The server said 503.")

    monkeypatch.setattr(LocalStorage, "stat", away)
    report = expiry.expire_plan(plan, now + DAY)
    assert (report.deleted, report.waiting) == (0, 1)
    assert states(records) == ["deleting", "committed", "committed"]
    assert "503" in records[0].delete_error
