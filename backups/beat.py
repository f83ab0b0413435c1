"""A plan's times are rows of beat: these are made, read and changed here, by the plan's form and by the seed.

Beat's crontab rows are shared between tasks, so a change takes another row instead of changing one. A row is
``.save()``d, never updated: beat learns of changes by the signal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import MultipleObjectsReturned
from django.db import transaction
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from controlplane.kernel.cron import Cron, CronError, expand, parse

from .models import BackupPlan
from .schedule import latest_due

RUN_PLAN, DRILL_PLAN = "backups.run_plan", "backups.drill_plan"
DEFAULT_CRON, DEFAULT_DRILL_CRON = "0 2 * * *", "0 4 * * 0"
#: These tasks only write a row, and must not wait behind a backup of hours.
QUEUE = "engine"


@dataclass(frozen=True)
class Times:
    """When a plan runs. ``cron`` has five fields, ``zone`` is a name of the time zone database."""

    cron: str
    zone: str = "UTC"
    enabled: bool = True


@transaction.atomic
def write_schedule(plan: BackupPlan, times: Times) -> PeriodicTask:
    """Make the plan's runs happen at these times; CronError (a Refused) for a cron that beat could not follow."""
    return _write(plan, "schedule", RUN_PLAN, f"backup of {plan.name}", times)


@transaction.atomic
def write_drill_schedule(plan: BackupPlan, times: Times) -> PeriodicTask:
    """The same for its restore drills."""
    return _write(plan, "drill_schedule", DRILL_PLAN, f"restore drill of {plan.name}", times)


def read_schedule(plan: BackupPlan) -> Times | None:
    """When the plan runs; None where it has no schedule (somebody deleted beat's row)."""
    return _read(plan.schedule)


def read_drill_schedule(plan: BackupPlan) -> Times | None:
    return _read(plan.drill_schedule)


@transaction.atomic
def delete_schedules(plan: BackupPlan) -> None:
    """Call before a plan is deleted: beat would send messages for it for ever."""
    for task in (plan.schedule, plan.drill_schedule):
        if task is not None:
            task.delete()
    plan.schedule = plan.drill_schedule = None


def zone_of(plan: BackupPlan) -> ZoneInfo:
    """The zone in which the plan's days begin, for its names, runs and retention."""
    row = plan.schedule.crontab if plan.schedule is not None else None
    return ZoneInfo(str(row.timezone)) if row is not None else ZoneInfo("UTC")


def due_at(plan: BackupPlan, now: datetime) -> datetime | None:
    """The latest time at which the plan was to run; None if it never was, or its cron cannot be followed."""
    task = plan.schedule
    if task is None or task.crontab is None:
        return None
    try:
        return latest_due(_cron(task.crontab), ZoneInfo(str(task.crontab.timezone)), now)
    except CronError:
        return None


def _cron(row: CrontabSchedule) -> Cron:
    return expand(row.minute, row.hour, row.day_of_month, row.month_of_year, row.day_of_week)


def _read(task: PeriodicTask | None) -> Times | None:
    if task is None or task.crontab is None:
        return None
    row = task.crontab
    cron = f"{row.minute} {row.hour} {row.day_of_month} {row.month_of_year} {row.day_of_week}"
    return Times(cron, str(row.timezone), task.enabled)


def _write(plan: BackupPlan, field: str, task_name: str, label: str, times: Times) -> PeriodicTask:
    columns = {**parse(times.cron).columns(), "timezone": ZoneInfo(times.zone)}
    wanted: dict[str, Any] = {
        "name": label,
        "task": task_name,
        "kwargs": json.dumps({"plan_id": plan.pk}),
        "crontab": _crontab_row(columns),
        "enabled": times.enabled,
        "queue": QUEUE,
        "description": f"{label[0].upper()}{label[1:]}; edited here or in the plan.",
    }
    present: PeriodicTask | None = getattr(plan, field)
    # A row of that name may be left of a plan that was deleted past delete_schedules().
    task = present or PeriodicTask.objects.filter(name=label, task=task_name).first() or PeriodicTask()
    if task.pk is None or any(getattr(task, name) != value for name, value in wanted.items()):
        moved = task.crontab != wanted["crontab"] or (times.enabled and not task.enabled)
        for name, value in wanted.items():
            setattr(task, name, value)
        task.interval = task.solar = task.clocked = None
        if moved:
            task.last_run_at = None  # a new schedule counts from now: with the old last run it could be due at once
        task.save()
    if present is None or present.pk != task.pk:
        setattr(plan, field, task)
        plan.save(update_fields=[field])
    return task


def _crontab_row(columns: dict[str, Any]) -> CrontabSchedule:
    try:
        row: CrontabSchedule = CrontabSchedule.objects.get_or_create(**columns)[0]
    except MultipleObjectsReturned:  # beat's tables have no unique constraint
        row = CrontabSchedule.objects.filter(**columns).order_by("pk")[0]
    return row
