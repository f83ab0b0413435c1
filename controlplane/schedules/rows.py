"""Rows of django-celery-beat: shared schedules that are never changed, and the origin of a task.

Beat's crontab and interval rows are shared between tasks, so an edit takes another row instead of
changing one. A row that the code brought carries its origin in ``PeriodicTask.headers``: the one JSON
column that beat keeps and copies onto the message, where workers ignore names they do not know.
A table of ours would need a migration in an app that has no other model, and a join per row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from zoneinfo import ZoneInfo

from django.core.exceptions import MultipleObjectsReturned
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from controlplane.kernel.cron import Cron, CronError, cron_in_words, expand, interval_in_words, parse
from controlplane.kernel.registry import ScheduleSpec, schedules

ORIGIN = "zantara_origin"
PRINT = "zantara_row"  # the operator's fields as reconcile last wrote them
RETIRED = "zantara_retired"  # the code dropped the schedule while it was enabled

Origin = Literal["code", "edited", "retired", "user"]

#: In words, for the list.
ORIGIN_WORDS: Mapping[Origin, str] = {
    "code": "code",
    "edited": "code, edited",
    "retired": "code, gone",
    "user": "user",
}

_SECONDS_OF = ((86400, IntervalSchedule.DAYS), (3600, IntervalSchedule.HOURS), (60, IntervalSchedule.MINUTES))


def crontab_row(cron: Cron, zone: str) -> CrontabSchedule:
    """The shared row of this crontab in this zone, made if there is none."""
    return _get_or_create(CrontabSchedule, {**cron.columns(), "timezone": ZoneInfo(zone)})


def interval_row(every: int, period: str) -> IntervalSchedule:
    """The shared row of this interval, made if there is none."""
    return _get_or_create(IntervalSchedule, {"every": every, "period": period})


def _get_or_create(model: Any, values: dict[str, Any]) -> Any:
    try:
        return model.objects.get_or_create(**values)[0]
    except MultipleObjectsReturned:  # beat's tables have no unique constraint
        return model.objects.filter(**values).order_by("pk").first()


def largest_unit(seconds: int) -> tuple[int, str]:
    """60 → (1, "minutes"): the largest unit that holds a whole number."""
    for size, period in _SECONDS_OF:
        if seconds % size == 0:
            return seconds // size, period
    return seconds, IntervalSchedule.SECONDS


def headers_of(task: PeriodicTask) -> dict[str, Any]:
    """The stored message headers; nonsense counts as none."""
    try:
        found = json.loads(task.headers or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_from_code(task: PeriodicTask) -> bool:
    return headers_of(task).get(ORIGIN) == "code"


def origin_of(task: PeriodicTask) -> Origin:
    """Where the row comes from, and whether an operator has changed what the code brought."""
    headers = headers_of(task)
    if headers.get(ORIGIN) != "code":
        return "user"
    if headers.get(RETIRED):
        return "retired"
    return "code" if headers.get(PRINT) == row_print(task) else "edited"


def row_print(task: PeriodicTask) -> str:
    """A fingerprint of what an operator may edit on a row of the code."""
    return _print(
        {
            "interval": [task.interval.every, task.interval.period] if task.interval else None,
            "crontab": cron_values(task.crontab) if task.crontab else None,
            "other": bool(task.solar_id or task.clocked_id),
            "enabled": task.enabled,
            "queue": task.queue or None,
            "expire_seconds": task.expire_seconds,
        }
    )


def spec_print(spec: ScheduleSpec) -> str:
    """The fingerprint of the row that this spec asks for."""
    return _print(
        {
            "interval": list(largest_unit(spec.every_seconds)) if spec.every_seconds else None,
            "crontab": [*parse(spec.cron).columns().values(), spec.timezone] if spec.cron else None,
            "other": False,
            "enabled": True,
            "queue": spec.queue,
            "expire_seconds": spec.expires_seconds,
        }
    )


def cron_values(row: CrontabSchedule) -> list[str]:
    return [row.minute, row.hour, row.day_of_month, row.month_of_year, row.day_of_week, str(row.timezone)]


def _print(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def cron_of(row: CrontabSchedule) -> Cron:
    """The crontab of a stored row; raises :class:`CronError` if Celery cannot follow it."""
    return expand(row.minute, row.hour, row.day_of_month, row.month_of_year, row.day_of_week)


@dataclass(frozen=True)
class InWords:
    """A schedule for people: the words, and the zone they are in (empty where none matters)."""

    words: str
    zone: str = ""
    broken: bool = False


def in_words(task: PeriodicTask) -> InWords:
    """How often a task runs, in words."""
    if task.interval:
        return InWords(interval_in_words(task.interval.every, task.interval.period))
    if task.crontab:
        try:
            return InWords(cron_in_words(cron_of(task.crontab)), str(task.crontab.timezone))
        except CronError as problem:
            return InWords(problem.message, str(task.crontab.timezone), broken=True)
    if task.solar or task.clocked:
        return InWords(str(task.scheduler))
    return InWords("no schedule", broken=True)


def label_of(task: PeriodicTask) -> str:
    """The label that the code gave the schedule; else the task's name without its package."""
    if task.name in schedules and schedules.get(task.name).task == task.task:
        return schedules.get(task.name).label
    return str(task.task)
