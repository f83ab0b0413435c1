"""What a late failure, a clock that was wrong or a store that is gone must not take away: each of these once did."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.db import OperationalError
from django_celery_beat.models import PeriodicTask

from backups import beat, keys, metrics, standing
from backups.catalogue import rebuild
from backups.engine import commit, due, expiry, facts
from backups.engine.progress import Progress
from backups.engine.recover import recover, tend_backups
from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.models import BackupPlan, BackupRecord
from backups.proving import drill_newest
from backups.restore import aftermath
from backups.storage import open_target
from controlplane.kernel import clock
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.engine import seeing

pytestmark = pytest.mark.django_db(transaction=True)


def objects(record: BackupRecord) -> list[str]:
    return [info.key for info in open_target(record.target).list("sets/")]


def requested(plan: BackupPlan) -> BackupRecord:
    record = request_backup(plan, trigger="manual")
    assert record is not None
    return record


def abandon(record: BackupRecord) -> None:
    """As a worker that was killed after COMMIT leaves the row."""
    BackupRecord.objects.filter(pk=record.pk).update(
        state="running", lease_owner="dead", lease_token=9, lease_expires_at=clock.now() - timedelta(minutes=5)
    )


def test_a_set_whose_row_cannot_be_written_is_kept_and_committed_by_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = requested(factories.files_plan(tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(commit, "committed", lambda *_, **__: (_ for _ in ()).throw(OperationalError("is locked")))
        run_backup(record.pk, owner="test")
    record.refresh_from_db()
    assert record.state == "running"
    assert objects(record)

    tend_backups(clock.now() + timedelta(minutes=2))

    record.refresh_from_db()
    assert (record.state, record.artifacts.count()) == ("committed", 1)


def test_what_goes_wrong_after_the_row_is_committed_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    record = requested(factories.files_plan(tmp_path))
    monkeypatch.setattr(metrics.runs, "add", full)

    run_backup(record.pk, owner="test")

    record.refresh_from_db()
    assert record.state == "committed"
    assert f"{record.prefix}/COMMIT" in objects(record)


def test_a_set_signed_by_a_key_that_the_tick_does_not_know_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = factories.committed_set(tmp_path)
    before = objects(record)
    abandon(record)
    with monkeypatch.context() as without:
        without.setattr(keys, "trusted_keys", lambda env=None: {})
        assert recover(record.pk, clock.now()) == "running"
    assert objects(record) == before

    assert recover(record.pk, clock.now()) == "committed"


def test_a_lost_run_whose_store_is_gone_is_in_nobodys_way(tmp_path: Path) -> None:
    now = clock.now()
    plan = factories.files_plan(tmp_path)
    lost = factories.record_of(
        plan, state="running", at=now - timedelta(minutes=30), prefix="sets/x/2026/11/lost",
        lease_owner="dead", lease_token=3, lease_expires_at=now - timedelta(minutes=20),
    )  # fmt: skip
    shutil.rmtree(tmp_path / "store")
    plan.target = factories.local_target(tmp_path / "another")
    plan.save()
    tend_backups(now)
    lost.refresh_from_db()
    assert lost.state == "running", "its store says nothing"

    assert factories.run_now(plan).state == "committed"


def test_a_part_of_a_plan_is_still_a_part_when_only_the_store_is_left(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    plan.sources.add(factories.files_source(tmp_path / "second", name="second"))
    whole = factories.run_now(plan)
    factories.run_now(plan, trigger="safety", only_sources=["second"])
    BackupRecord.objects.all().delete()

    rebuild(plan.target, clock.now())

    found = {record.name: record.only_sources for record in BackupRecord.objects.all()}
    assert found == {whole.name: [], f"{whole.name}-2": ["second"]}
    assert sorted(one.sound for one in facts.sets_of(facts.kept_records(plan))) == [False, True]


def sized(plan: BackupPlan, at: datetime, size: int) -> BackupRecord:
    record = factories.record_of(plan, at=at, plain_bytes=size)
    factories.artifact_of(record, name="files", plain_bytes=size)
    return record


def test_a_set_from_the_future_does_not_hide_a_loss(tmp_path: Path) -> None:
    now = clock.now()
    plan = factories.files_plan(tmp_path)
    for days in (-3650, 2, 3, 4, 5, 6):
        sized(plan, now - timedelta(days=days), 1000)
    sized(plan, now - timedelta(hours=1), 10)
    old = sized(plan, now - timedelta(days=40), 1000)

    report = expiry.expire_plan(plan, now)

    old.refresh_from_db()
    assert "less than usual" in report.frozen
    assert old.state == "committed"


def test_a_set_from_the_future_is_no_new_set(tmp_path: Path) -> None:
    now = clock.now()
    plan = factories.files_plan(tmp_path)
    for days in (-3650, 10, 40):
        sized(plan, now - timedelta(days=days), 1000)

    assert "until there is a new one" in expiry.expire_plan(plan, now).frozen


def test_marks_that_come_back_with_the_database_give_a_day_again(tmp_path: Path) -> None:
    now = clock.now()
    plan = factories.files_plan(tmp_path)
    marked = factories.record_of(plan, state="expiring", at=now - timedelta(days=40), expires_at=now)

    assert aftermath.put_off_deletions(now) == 1

    marked.refresh_from_db()
    assert marked.expires_at == now + expiry.UNDO_TIME


def test_a_database_that_is_away_for_a_moment_costs_an_attempt_and_not_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    record = requested(factories.files_plan(tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(Progress, "moved", away)
        run_backup(record.pk, owner="test")
    record.refresh_from_db()
    assert (record.state, record.attempt) == ("queued", 1), record.error
    assert objects(record) == []

    assert run_backup(record.pk, owner="test", now=record.due_at) is not None
    record.refresh_from_db()
    assert record.state == "committed"


def test_somebody_hears_of_a_plan_that_has_nothing_to_save_and_other_plans_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    empty = factories.plan_of(factories.local_target(tmp_path / "one"), name="a-empty")
    broken = factories.plan_of(factories.local_target(tmp_path / "two"), name="b-broken")
    well = factories.files_plan(tmp_path, name="c-well")
    for plan in (empty, broken, well):
        beat.write_schedule(plan, beat.Times("* * * * *"))
        BackupPlan.objects.filter(pk=plan.pk).update(created_at=now - timedelta(days=9))
        PeriodicTask.objects.filter(pk=plan.schedule_id).update(date_changed=now - timedelta(days=9))

    def due_at(plan: BackupPlan, at: datetime) -> datetime:
        if plan == broken:
            raise ZeroDivisionError("a defect")
        return at - timedelta(minutes=40)

    monkeypatch.setattr(beat, "due_at", due_at)

    begun = due.start_missed(now)

    assert [record.plan_name for record in begun] == ["c-well"]
    assert "no enabled source" in Message.objects.get(kind="backup_missed", title__contains="a-empty").body


def test_a_target_that_holds_sets_cannot_be_pointed_at_another_bucket(tmp_path: Path) -> None:
    record = factories.committed_set(tmp_path)
    target = record.target
    target.prefix = "elsewhere"
    with pytest.raises(ValidationError, match="holds sets"):
        target.full_clean()

    BackupRecord.objects.filter(pk=record.pk).update(state="deleted")
    target.full_clean()


def test_a_set_from_the_future_hides_neither_an_old_backup_nor_its_drill(tmp_path: Path) -> None:
    now = clock.now()
    plan = factories.files_plan(tmp_path)
    sized(plan, now + timedelta(days=3650), 1000)
    real = sized(plan, now - timedelta(days=9), 1000)

    assert [(one.name, newest) for one, newest in standing.plans()] == [(plan.name, real)]
    proof = drill_newest(plan.pk)
    assert proof is not None
    assert proof.record == real


def test_a_run_that_was_given_up_keeps_its_set_where_it_had_committed_all_the_same(tmp_path: Path) -> None:
    record = factories.committed_set(tmp_path)
    prefix = record.prefix
    # the store was away for a day when its worker died after COMMIT: the row was ended, its folder not judged
    BackupRecord._base_manager.filter(pk=record.pk).update(state="failed", committed_at=None)
    tend_backups(clock.now())
    record.refresh_from_db()
    assert (record.state, record.prefix) == ("failed", "")
    assert prefix in seeing.prefixes(record.target)
    assert "its set is whole and stays" in record.events.latest().reason
