"""When a row of beat runs next, when it should have run, and whether it is overdue. No queries of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django_celery_beat.models import PeriodicTask

from controlplane.kernel.cron import CronError
from controlplane.kernel.nextruns import Run, next_interval_runs, next_run, next_runs

from .rows import cron_of
from .store import LastRun

#: Beat writes a row's last run at most this much later (Celery's ``sync_every``), and it is all that is
#: known of a run where Redis has forgotten it.
_WRITE_BACK_SECONDS = 180
#: No row is overdue sooner, however short its period: one poll of beat (5 s) and a busy machine.
_LEAST_LATENESS = timedelta(seconds=30)


@dataclass(frozen=True)
class Timing:
    """``next_at`` is in the schedule's zone; None if it will not run. ``due_now``: it waits for beat."""

    next_at: datetime | None
    due_now: bool = False
    overdue: bool = False


def upcoming(task: PeriodicTask, now: datetime, count: int = 5) -> list[Run]:
    """The next runs of the stored schedule, from now on, as if it were enabled."""
    try:
        return _upcoming(task, now, count)
    except OverflowError:  # as in timing()
        return []


def _upcoming(task: PeriodicTask, now: datetime, count: int) -> list[Run]:
    after = max(now, task.start_time - timedelta(microseconds=1)) if task.start_time else now
    if task.interval:
        return next_interval_runs(_every(task.interval), task.last_run_at or task.date_changed, after, count)
    if task.crontab:
        try:
            return next_runs(cron_of(task.crontab), task.crontab.timezone, after, count)
        except CronError:
            return []
    if task.clocked and task.clocked.clocked_time > now:
        return [Run(task.clocked.clocked_time)]
    return []


def timing(task: PeriodicTask, now: datetime, run: LastRun | None) -> Timing:
    """``run`` is the last run that a worker noted; without it beat's own, coarser note is used.

    A row is overdue when it is enabled and more than two of its periods late.
    """
    if not task.enabled:
        return Timing(None)
    known = [task.date_changed, task.last_run_at, run.started_at if run else None]
    reference = max(at for at in known if at is not None)
    if task.start_time and task.start_time > reference:
        reference = task.start_time - timedelta(microseconds=1)
    try:
        due, following = _due_and_following(task, reference)
    except OverflowError:  # a row written past the form, after the last day of the calendar
        return Timing(None)
    if due is None:
        return Timing(None)
    if due > now:
        return Timing(due)
    period = (following - due) if following else timedelta(days=1)
    allowed = max(2 * period, _LEAST_LATENESS)
    if run is None:
        allowed += timedelta(seconds=_WRITE_BACK_SECONDS)
    return Timing(now.astimezone(due.tzinfo), due_now=True, overdue=now - due > allowed)


def _due_and_following(task: PeriodicTask, reference: datetime) -> tuple[datetime | None, datetime | None]:
    if task.interval:
        every = _every(task.interval)
        return reference + every, reference + 2 * every
    if task.crontab:
        try:
            cron = cron_of(task.crontab)
        except CronError:
            return None, None
        due = next_run(cron, task.crontab.timezone, reference)
        following = next_run(cron, task.crontab.timezone, due.at) if due else None
        return (due.at if due else None), (following.at if following else None)
    if task.clocked:
        return task.clocked.clocked_time, None
    return None, None


def _every(interval: Any) -> timedelta:
    return timedelta(**{interval.period: interval.every})
