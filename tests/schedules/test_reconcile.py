"""The code's schedules in beat's tables: made, followed, kept where an operator edited them, never deleted."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask, PeriodicTasks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.registry import Registry, ScheduleSpec
from controlplane.schedules import rows
from controlplane.schedules.reconcile import ReconcileResult, reconcile_schedules

pytestmark = pytest.mark.django_db

NIGHTLY = ScheduleSpec(
    name="backups.nightly", task="backups.run", label="Nightly backup", description="Back everything up.",
    cron="30 3 * * *", timezone="Europe/Rome", expires_seconds=3600, kwargs={"plan": 1},
)  # fmt: skip
TICK = ScheduleSpec(
    name="deployments.tick", task="deployments.tick", label="Tick", description="Reconcile.", every_seconds=2,
    queue="engine", expires_seconds=2, editable=False,
)  # fmt: skip


def declare(registry: Registry[ScheduleSpec], *specs: ScheduleSpec) -> None:
    registry._entries = {spec.name: spec for spec in specs}


def row(name: str) -> PeriodicTask:
    return PeriodicTask.objects.get(name=name)


def last_change() -> datetime | None:
    return PeriodicTasks.last_change()


def test_the_codes_schedules_become_rows_and_doing_it_again_changes_nothing(declared: Registry[ScheduleSpec]) -> None:
    declare(declared, NIGHTLY, TICK)
    assert reconcile_schedules() == ReconcileResult(created=("backups.nightly", "deployments.tick"))
    task = row("backups.nightly")
    assert str(task.crontab) == "30 3 * * * (m/h/dM/MY/d) Europe/Rome"
    assert (task.task, task.queue, task.expire_seconds, task.kwargs) == ("backups.run", "work", 3600, '{"plan": 1}')
    assert (row("deployments.tick").interval.every, row("deployments.tick").interval.period) == (2, "seconds")
    assert rows.origin_of(task) == "code"
    told = last_change()
    assert reconcile_schedules() == ReconcileResult()
    assert last_change() == told


def test_an_unedited_row_follows_the_code_and_beat_is_told(declared: Registry[ScheduleSpec]) -> None:
    declare(declared, NIGHTLY)
    reconcile_schedules()
    told = last_change()
    declare(declared, replace(NIGHTLY, cron="0 4 * * *"))
    assert reconcile_schedules().updated == ("backups.nightly",)
    assert row("backups.nightly").crontab.hour == "4"
    assert last_change() > told
    # The shared row of the old time is left as it was: another task may use it.
    assert CrontabSchedule.objects.filter(minute="30", hour="3").exists()


@pytest.mark.parametrize("field", ["enabled", "queue", "crontab", "interval", "expire_seconds"])
def test_an_operators_edit_is_kept_and_marked(declared: Registry[ScheduleSpec], field: str) -> None:
    declare(declared, NIGHTLY)
    reconcile_schedules()
    task = row("backups.nightly")
    if field == "crontab":
        task.crontab = rows.crontab_row(rows.parse("0 5 * * *"), "UTC")
    elif field == "interval":
        task.crontab, task.interval = None, rows.interval_row(2, "hours")
    else:
        setattr(task, field, {"enabled": False, "queue": "engine", "expire_seconds": 5}[field])
    task.save()
    assert rows.origin_of(task) == "edited"
    declare(declared, replace(NIGHTLY, cron="0 4 * * *"))
    assert reconcile_schedules().kept == ("backups.nightly",)
    after = row("backups.nightly")
    assert rows.row_print(after) == rows.row_print(task)
    assert rows.origin_of(after) == "edited"


def test_what_names_a_function_follows_the_code_even_on_an_edited_row(declared: Registry[ScheduleSpec]) -> None:
    declare(declared, NIGHTLY)
    reconcile_schedules()
    task = row("backups.nightly")
    task.queue = "engine"
    task.save()
    declare(declared, replace(NIGHTLY, task="backups.tasks.run", kwargs={"plan": 2}))
    assert reconcile_schedules().updated == ("backups.nightly",)
    after = row("backups.nightly")
    assert (after.task, after.kwargs, after.queue) == ("backups.tasks.run", '{"plan": 2}', "engine")
    assert rows.origin_of(after) == "edited"


def test_a_schedule_that_may_not_be_edited_is_put_back(declared: Registry[ScheduleSpec]) -> None:
    declare(declared, TICK)
    reconcile_schedules()
    task = row("deployments.tick")
    task.enabled, task.interval, task.one_off = False, rows.interval_row(1, "days"), True
    task.save()
    assert reconcile_schedules().updated == ("deployments.tick",)
    after = row("deployments.tick")
    assert (after.enabled, after.interval.every, after.interval.period, after.one_off) == (True, 2, "seconds", False)


def test_a_schedule_gone_from_the_code_is_disabled_and_comes_back_with_it(declared: Registry[ScheduleSpec]) -> None:
    declare(declared, NIGHTLY)
    reconcile_schedules()
    declare(declared)
    assert reconcile_schedules().disabled == ("backups.nightly",)
    assert row("backups.nightly").enabled is False
    assert rows.origin_of(row("backups.nightly")) == "retired"
    assert reconcile_schedules() == ReconcileResult()
    declare(declared, NIGHTLY)
    assert reconcile_schedules().updated == ("backups.nightly",)
    assert row("backups.nightly").enabled is True
    assert rows.origin_of(row("backups.nightly")) == "code"


def test_a_schedule_that_an_operator_had_disabled_stays_so_when_the_code_brings_it_back(
    declared: Registry[ScheduleSpec],
) -> None:
    declare(declared, NIGHTLY)
    reconcile_schedules()
    task = row("backups.nightly")
    task.enabled = False
    task.save()
    declare(declared)
    reconcile_schedules()
    declare(declared, NIGHTLY)
    assert reconcile_schedules().kept == ("backups.nightly",)
    assert row("backups.nightly").enabled is False


def test_a_users_own_task_is_never_touched_even_under_a_name_that_the_code_wants(
    declared: Registry[ScheduleSpec],
) -> None:
    mine = PeriodicTask.objects.create(name="backups.nightly", task="mine", interval=rows.interval_row(1, "hours"))
    declare(declared, NIGHTLY)
    assert reconcile_schedules().kept == ("backups.nightly",)
    mine.refresh_from_db()
    assert (mine.task, rows.origin_of(mine)) == ("mine", "user")


def test_a_shared_row_is_never_changed_under_another_task(declared: Registry[ScheduleSpec]) -> None:
    declare(declared, TICK)
    shared = rows.interval_row(2, "seconds")
    other = PeriodicTask.objects.create(name="other", task="other", interval=shared)
    reconcile_schedules()
    declare(declared, replace(TICK, every_seconds=120))
    reconcile_schedules()
    other.refresh_from_db()
    assert (other.interval.every, other.interval.period) == (2, "seconds")
    assert (row("deployments.tick").interval.every, row("deployments.tick").interval.period) == (2, "minutes")


def test_twin_rows_of_one_schedule_do_not_break_it(declared: Registry[ScheduleSpec]) -> None:
    IntervalSchedule.objects.create(every=2, period="seconds")
    IntervalSchedule.objects.create(every=2, period="seconds")
    declare(declared, TICK)
    assert reconcile_schedules().created == ("deployments.tick",)


def test_a_spec_with_two_schedules_or_none_is_refused_and_nothing_is_written(
    declared: Registry[ScheduleSpec],
) -> None:
    declare(declared, NIGHTLY, replace(TICK, cron="* * * * *"))
    with pytest.raises(ConfigurationError, match="exactly one of every_seconds and cron"):
        reconcile_schedules()
    assert not PeriodicTask.objects.exists()


specs = st.lists(
    st.builds(
        ScheduleSpec,
        name=st.sampled_from(["a", "b", "c"]),
        task=st.sampled_from(["x", "y"]),
        label=st.just("label"),
        description=st.sampled_from(["", "text"]),
        every_seconds=st.integers(1, 90_000),
        queue=st.sampled_from(["work", "engine"]),
        expires_seconds=st.one_of(st.none(), st.integers(1, 99)),
        editable=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda spec: spec.name,
)
edits = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.sampled_from(["work", "other"])))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=specs, edited=edits, after=specs)
def test_reconciling_twice_is_reconciling_once(
    declared: Registry[ScheduleSpec], before: list[ScheduleSpec], edited: list[tuple[str, bool, str]],
    after: list[ScheduleSpec],
) -> None:  # fmt: skip
    PeriodicTask.objects.all().delete()
    declare(declared, *before)
    reconcile_schedules()
    for name, enabled, queue in edited:
        for task in PeriodicTask.objects.filter(name=name):
            task.enabled, task.queue = enabled, queue
            task.save()
    declare(declared, *after)
    reconcile_schedules()
    once = list(PeriodicTask.objects.order_by("name").values())
    second = reconcile_schedules()
    assert not second.changed
    assert list(PeriodicTask.objects.order_by("name").values()) == once
    assert {spec.name for spec in after} <= {task["name"] for task in once}
    for spec in after:
        if not spec.editable:
            assert rows.row_print(row(spec.name)) == rows.spec_print(spec)
