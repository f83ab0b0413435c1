"""Beat's rows of a plan, what beat's message starts, and what the tick makes up for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django_celery_beat.models import PeriodicTask

from backups import beat, tasks
from backups.engine import due
from backups.engine.recover import tend_backups
from backups.machines import RECORD
from backups.models import BackupEvent, BackupPlan, BackupRecord, PlanState
from controlplane.kernel import transitions
from controlplane.kernel.cron import CronError
from controlplane.notifications.models import Message
from tests.backups import factories

pytestmark = pytest.mark.django_db(transaction=True)

TWO = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
LONG_AGO = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def plan(tmp_path: Path) -> BackupPlan:
    return scheduled(factories.files_plan(tmp_path))


def scheduled(plan: BackupPlan, cron: str = "0 2 * * *", zone: str = "UTC", since: datetime = LONG_AGO) -> BackupPlan:
    """A plan whose schedule has been as it is since ``since``."""
    task = beat.write_schedule(plan, beat.Times(cron, zone))
    PeriodicTask.objects.filter(pk=task.pk).update(date_changed=since)
    BackupPlan.objects.filter(pk=plan.pk).update(created_at=since)
    return BackupPlan.objects.get(pk=plan.pk)


def messages(kind: str) -> list[tuple[str, int]]:
    return list(Message.objects.filter(kind=kind).order_by("pk").values_list("key", "severity"))


# --- rows of beat ----------------------------------------------------------------------------------------------


def test_a_plans_times_are_rows_of_beat(plan: BackupPlan) -> None:
    task = plan.schedule
    assert task is not None
    assert (task.task, json.loads(task.kwargs), task.queue, task.enabled) == (
        "backups.run_plan", {"plan_id": plan.pk}, beat.QUEUE, True,
    )  # fmt: skip
    assert beat.read_schedule(plan) == beat.Times("0 2 * * *", "UTC", enabled=True)
    assert beat.read_drill_schedule(plan) is None


def test_changing_the_times_takes_another_row_of_the_shared_table_and_keeps_the_task(
    plan: BackupPlan, tmp_path: Path
) -> None:
    other = scheduled(factories.files_plan(tmp_path / "other"))
    assert plan.schedule is not None
    assert other.schedule is not None
    assert plan.schedule.crontab_id == other.schedule.crontab_id
    pk = plan.schedule.pk
    PeriodicTask.objects.filter(pk=pk).update(last_run_at=TWO)
    plan = BackupPlan.objects.get(pk=plan.pk)
    beat.write_schedule(plan, beat.Times("30 4 * * *", "Europe/Berlin", enabled=False))
    other = BackupPlan.objects.get(pk=other.pk)
    assert beat.read_schedule(other) == beat.Times("0 2 * * *")
    changed = PeriodicTask.objects.get(pk=pk)
    assert beat.read_schedule(BackupPlan.objects.get(pk=plan.pk)) == beat.Times("30 4 * * *", "Europe/Berlin", False)
    assert changed.last_run_at is None, "a new schedule counts from now"


def test_writing_the_same_times_again_changes_nothing(plan: BackupPlan) -> None:
    before = PeriodicTask.objects.values().get(pk=plan.schedule_id)
    beat.write_schedule(plan, beat.Times("0 2 * * *"))
    assert PeriodicTask.objects.values().get(pk=plan.schedule_id) == before


def test_nonsense_is_refused_and_the_old_times_stay(plan: BackupPlan) -> None:
    with pytest.raises(CronError):
        beat.write_schedule(plan, beat.Times("0 25 * * *"))
    assert beat.read_schedule(BackupPlan.objects.get(pk=plan.pk)) == beat.Times("0 2 * * *")


def test_a_deleted_plan_takes_its_rows_of_beat_along(plan: BackupPlan) -> None:
    beat.write_drill_schedule(plan, beat.Times("0 4 * * 0"))
    beat.delete_schedules(plan)
    plan.delete()
    assert not PeriodicTask.objects.filter(task__startswith="backups.").filter(kwargs__contains="plan_id").exists()


def test_a_plan_of_the_same_name_takes_over_a_row_that_was_left(plan: BackupPlan) -> None:
    pk, name = plan.schedule_id, plan.name
    target = plan.target
    BackupPlan.objects.get(pk=plan.pk).delete()
    again = factories.plan_of(target, name=name)
    beat.write_schedule(again, beat.Times("0 3 * * *"))
    assert again.schedule_id == pk
    assert json.loads(PeriodicTask.objects.get(pk=pk).kwargs) == {"plan_id": again.pk}


# --- what beat starts ------------------------------------------------------------------------------------------


def test_beats_message_makes_the_run_of_its_time_once(plan: BackupPlan) -> None:
    record = due.run_plan(plan.pk, now=TWO + timedelta(seconds=2))
    assert record is not None
    assert (record.scheduled_for, record.trigger, record.state) == (TWO, "schedule", "queued")
    assert due.run_plan(plan.pk, now=TWO + timedelta(seconds=40)) is None
    assert due.run_plan(plan.pk, now=TWO + timedelta(hours=5)) is None
    assert BackupRecord.objects.count() == 1
    assert messages("backup_missed") == []


def test_a_worker_whose_clock_is_a_little_behind_beats_starts_the_same_run(plan: BackupPlan) -> None:
    record = due.run_plan(plan.pk, now=TWO - timedelta(seconds=3))
    assert record is not None
    assert record.scheduled_for == TWO


def test_a_message_that_comes_late_is_a_missed_run_and_told(plan: BackupPlan) -> None:
    record = due.run_plan(plan.pk, now=TWO + timedelta(hours=7))
    assert record is not None
    assert (record.trigger, record.scheduled_for) == ("missed", TWO)
    assert messages("backup_missed") == [(f"backup_missed:{plan.name}:2026-11-23T02:00Z", 20)]


def test_a_disabled_or_deleted_plan_is_not_run(plan: BackupPlan) -> None:
    plan.enabled = False
    plan.save()
    assert due.run_plan(plan.pk, now=TWO) is None
    assert due.run_plan(plan.pk + 99, now=TWO) is None
    assert not BackupRecord.objects.exists()


def test_a_schedule_that_is_run_by_hand_makes_a_run_of_now(plan: BackupPlan) -> None:
    assert due.run_plan(plan.pk, now=TWO) is not None
    BackupRecord.objects.update(state="committed")
    record = due.run_plan(plan.pk, now=TWO + timedelta(hours=1), triggered_by="ada")
    assert record is not None
    assert (record.trigger, record.requested_by, record.scheduled_for) == ("manual", "ada", None)


def test_the_task_hears_who_ran_the_schedule_by_hand(plan: BackupPlan) -> None:
    tasks.run_plan.apply(kwargs={"plan_id": plan.pk}, headers={"zantara_triggered_by": "ada"}, throw=True)
    assert BackupRecord.objects.get().requested_by == "ada"


# --- what beat missed ------------------------------------------------------------------------------------------


def test_beat_has_two_minutes_and_then_the_tick_starts_the_run_once(plan: BackupPlan) -> None:
    assert tend_backups(TWO + timedelta(seconds=119)).started == 0
    assert tend_backups(TWO + timedelta(seconds=121)).started == 1
    for minute in range(3, 10):
        assert tend_backups(TWO + timedelta(minutes=minute)).started == 0
    record = BackupRecord.objects.get()
    assert (record.trigger, record.scheduled_for) == ("missed", TWO)
    assert due.run_plan(plan.pk, now=TWO + timedelta(minutes=3)) is None, "beat comes after all"
    assert messages("backup_missed") == [], "a few minutes late is nothing to tell"


def test_only_the_latest_of_many_missed_runs_is_made_up_for_and_told_once(plan: BackupPlan) -> None:
    now = TWO + timedelta(days=3, hours=9)
    assert tend_backups(now).started == 1
    assert tend_backups(now + timedelta(minutes=1)).started == 0
    record = BackupRecord.objects.get()
    assert record.scheduled_for == TWO + timedelta(days=3)
    assert messages("backup_missed") == [(f"backup_missed:{plan.name}:2026-11-26T02:00Z", 20)]


def test_a_plan_owes_nothing_for_the_time_before_it_was_made_or_changed(plan: BackupPlan) -> None:
    scheduled(plan, since=TWO + timedelta(minutes=1))
    assert tend_backups(TWO + timedelta(hours=3)).started == 0
    assert tend_backups(TWO + timedelta(days=1, minutes=5)).started == 1


def test_a_disabled_plan_or_schedule_misses_nothing(plan: BackupPlan, tmp_path: Path) -> None:
    plan.enabled = False
    plan.save()
    other = scheduled(factories.files_plan(tmp_path / "other"))
    beat.write_schedule(other, beat.Times("0 2 * * *", enabled=False))
    assert tend_backups(TWO + timedelta(hours=1)).started == 0


def test_a_run_that_nobody_begins_is_told_after_half_an_hour_and_only_once(plan: BackupPlan) -> None:
    assert due.run_plan(plan.pk, now=TWO) is not None
    tend_backups(TWO + timedelta(minutes=29))
    assert messages("backup_missed") == []
    for minutes in (31, 32, 90):
        tend_backups(TWO + timedelta(minutes=minutes))
    assert messages("backup_missed") == [(f"backup_missed:{plan.name}:2026-11-23T02:00Z", 30)]
    assert PlanState.objects.get(plan=plan).missed_noticed_for == TWO


def test_a_missed_run_of_a_plan_without_sources_is_no_fault_of_the_tick(plan: BackupPlan) -> None:
    plan.sources.clear()
    assert tend_backups(TWO + timedelta(minutes=5)).started == 0


@pytest.mark.parametrize(
    ("zone", "day", "runs"),
    [
        ("Europe/Berlin", "2026-03-29", ["2026-03-29T01:30"]),
        ("Europe/Berlin", "2026-10-25", ["2026-10-25T00:30"]),
        ("America/New_York", "2026-03-08", ["2026-03-08T07:30"]),
        ("America/New_York", "2026-11-01", ["2026-11-01T07:30"]),
    ],
)
def test_half_past_two_makes_one_run_on_days_on_which_clocks_change(
    plan: BackupPlan, zone: str, day: str, runs: list[str]
) -> None:
    """Beat is away; only the tick runs, all day long. The run of the night before is there already."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=2)
    scheduled(plan, "30 2 * * *", zone, since=start)
    for minutes in range(0, 24 * 60, 7):
        tend_backups(start + timedelta(minutes=minutes))
        for record in BackupRecord.objects.filter(state="queued"):
            for state in ("running", "committed"):
                transitions.advance(record, state, machine=RECORD, event=BackupEvent)
    made = [f"{at:%Y-%m-%dT%H:%M}" for at in BackupRecord.objects.values_list("scheduled_for", flat=True) if at]
    assert made == runs


def test_messages_are_sent_again_only_when_nobody_can_take_the_last_one(
    plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr("backups.engine.sending.send", lambda task, pk, **_: sent.append(pk) or True)
    record = due.run_plan(plan.pk, now=TWO)
    assert record is not None
    assert sent == [record.pk]
    for minutes in range(1, 5):
        assert tend_backups(TWO + timedelta(minutes=minutes)).sent == 0
    assert tend_backups(TWO + timedelta(minutes=5)).sent == 1
    assert tend_backups(TWO + timedelta(minutes=6)).sent == 0
    assert sent == [record.pk] * 2


def test_without_a_broker_the_row_waits_and_the_tick_sends_it(
    plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backups.engine.sending.send", lambda *_, **__: False)
    record = due.run_plan(plan.pk, now=TWO)
    assert record is not None
    assert record.progress == {}
    sent: list[int] = []
    monkeypatch.setattr("backups.engine.sending.send", lambda task, pk, **_: sent.append(pk) or True)
    assert tend_backups(TWO + timedelta(minutes=1)).sent == 1
    assert sent == [record.pk]
