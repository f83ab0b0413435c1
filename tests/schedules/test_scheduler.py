"""Our scheduler: right on the days on which clocks change, and never undoing an operator's save."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
import time_machine
from celery.schedules import schedstate
from django.core.checks import run_checks
from django_celery_beat.models import PeriodicTask, PeriodicTasks
from django_celery_beat.tzcrontab import TzAwareCrontab
from pytest_django import Settings

from controlplane.celery import app
from controlplane.schedules import rows
from controlplane.schedules.scheduler import Entry, Scheduler, SteadyCrontab

ROME = ZoneInfo("Europe/Rome")


def runs_between(crontab: TzAwareCrontab, start: datetime, end: datetime, most: int = 200) -> list[datetime]:
    """Let beat's own question decide, second by second where it says so, as beat does."""
    last, at, runs = start, start, []
    while at < end and len(runs) < most:
        with time_machine.travel(at, tick=False):
            state: schedstate = crontab.is_due(last)
        if state.is_due:
            runs.append(at)
            last = at
            at += timedelta(seconds=1)
        else:
            at += timedelta(seconds=max(1, min(state.next, 3600)))
    return runs


def test_a_schedule_of_every_quarter_runs_through_the_repeated_hour() -> None:
    start, end = datetime(2026, 10, 24, 23, 50, tzinfo=UTC), datetime(2026, 10, 25, 3, 1, tzinfo=UTC)
    runs = runs_between(SteadyCrontab(minute="*/15", tz=ROME), start, end)
    assert runs == [datetime(2026, 10, 25, tzinfo=UTC) + timedelta(minutes=15 * n) for n in range(13)]
    # What it mends: Celery's own stays silent for an hour and a quarter.
    theirs = runs_between(TzAwareCrontab(minute="*/15", tz=ROME), start, end)
    assert max(b - a for a, b in pairwise(theirs)) == timedelta(minutes=75)


def test_a_task_that_ran_in_the_second_pass_does_not_run_without_pause() -> None:
    start, end = datetime(2026, 10, 25, 1, 5, tzinfo=UTC), datetime(2026, 10, 25, 1, 59, tzinfo=UTC)
    assert len(runs_between(SteadyCrontab(minute="*", tz=ROME), start, end)) == 53
    assert len(runs_between(TzAwareCrontab(minute="*", tz=ROME), start, end)) == 200


def test_a_nightly_run_happens_once_on_both_days_of_change() -> None:
    spring = runs_between(
        SteadyCrontab(minute="30", hour="2", tz=ROME),
        datetime(2026, 3, 28, 12, tzinfo=UTC),
        datetime(2026, 3, 29, 12, tzinfo=UTC),
    )
    autumn = runs_between(
        SteadyCrontab(minute="30", hour="2", tz=ROME),
        datetime(2026, 10, 24, 12, tzinfo=UTC),
        datetime(2026, 10, 25, 12, tzinfo=UTC),
    )
    assert (spring, autumn) == ([datetime(2026, 3, 29, 1, 30, tzinfo=UTC)], [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)])


@pytest.mark.django_db
def test_beats_write_back_never_undoes_an_operators_save(monkeypatch: pytest.MonkeyPatch) -> None:
    task = PeriodicTask.objects.create(
        name="x", task="x", interval=rows.interval_row(1, "minutes"), last_run_at=datetime(2026, 11, 1, tzinfo=UTC)
    )
    entry = next(Entry(task, app=app))
    told = PeriodicTasks.last_change()
    saved = []

    def get_then_an_operator_saves(**which: object) -> PeriodicTask:
        row = PeriodicTask.objects.filter(**which).get()
        operators = PeriodicTask.objects.filter(**which).get()
        operators.queue, operators.description = "engine", "new"
        operators.save()
        saved.append(operators)
        return row

    with monkeypatch.context() as patched:
        patched.setattr(PeriodicTask.objects, "get", get_then_an_operator_saves)
        entry.save()
    assert len(saved) == 1
    task.refresh_from_db()
    assert (task.queue, task.description, task.total_run_count) == ("engine", "new", 1)
    assert task.last_run_at == entry.model.last_run_at
    assert PeriodicTasks.last_change() > told


@pytest.mark.django_db
def test_beats_write_back_neither_enables_a_row_nor_tells_itself_of_a_change() -> None:
    task = PeriodicTask.objects.create(name="x", task="x", interval=rows.interval_row(1, "minutes"))
    entry = next(Entry(task, app=app))
    told = PeriodicTasks.last_change()
    entry.save()
    assert PeriodicTasks.last_change() == told
    changed = PeriodicTask.objects.get()
    changed.enabled = False
    changed.save()
    entry.save()
    changed.refresh_from_db()
    assert (changed.enabled, changed.last_run_at) == (False, None)


@pytest.mark.django_db
def test_a_schedule_changed_since_counts_from_its_change() -> None:
    task = PeriodicTask.objects.create(name="x", task="x", interval=rows.interval_row(1, "minutes"))
    entry = next(Entry(task, app=app))
    changed = PeriodicTask.objects.get()
    changed.interval, changed.last_run_at = rows.interval_row(1, "days"), None
    changed.save()
    entry.save()
    changed.refresh_from_db()
    assert changed.last_run_at is None


@pytest.mark.django_db
def test_beat_reads_crontabs_as_ours_and_installs_no_entry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Beat closes connections that are not its own; here that would be the test's transaction.
    monkeypatch.setattr("django_celery_beat.schedulers.close_old_connections", lambda: None)
    PeriodicTask.objects.create(name="x", task="x", crontab=rows.crontab_row(rows.parse("* * * * *"), "Europe/Rome"))
    scheduler = Scheduler(app=app)
    assert isinstance(scheduler.schedule["x"].schedule, SteadyCrontab)
    assert list(PeriodicTask.objects.values_list("name", flat=True)) == ["x"]


@pytest.mark.django_db
def test_a_change_right_after_beats_start_is_seen_at_its_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_celery_beat.schedulers.close_old_connections", lambda: None)
    scheduler = Scheduler(app=app)
    assert scheduler.schedule_changed() is False
    PeriodicTask.objects.create(name="first", task="x", interval=rows.interval_row(1, "minutes"))
    assert list(scheduler.schedule) == ["first"]
    scheduler = Scheduler(app=app)
    PeriodicTask.objects.create(name="second", task="x", interval=rows.interval_row(1, "minutes"))
    assert sorted(scheduler.schedule) == ["first", "second"]
    assert scheduler.schedule_changed() is False


def test_a_wrong_scheduler_and_naive_times_are_found_by_the_system_check(settings: Settings) -> None:
    def found() -> set[str | None]:
        return {message.id for message in run_checks(tags=["zantara"])} & {"zantara.E301", "zantara.E302"}

    assert found() == set()
    settings.CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
    settings.DJANGO_CELERY_BEAT_TZ_AWARE = False
    assert found() == {"zantara.E301", "zantara.E302"}
    settings.CELERY_BEAT_SCHEDULER = "no.such:Scheduler"
    assert "zantara.E302" in found()
