"""When a schedule runs next, worked out from an explicit ``now``. Pure.

Between clock changes this agrees with ``celery.schedules.crontab`` to the minute. On the days on which
clocks change it says, and :class:`controlplane.schedules.scheduler.SteadyCrontab` makes beat do, this:

* a time that does not exist runs as much later as the clock jumps (02:30 becomes 03:30), once;
* a time that comes twice runs the first time only, if the schedule names its hours;
* a schedule that runs every hour runs through both passes, so that no hour stays silent.

Celery alone leaves the repeated hour silent, or runs without pause through it when its last run fell into
the second pass, because it loses which of the two passes a time belongs to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal

from .cron import Cron

#: February 29 on one weekday comes every 28 years, and after 40 over a century that is no leap year.
_FURTHEST = timedelta(days=41 * 366)
#: Wider than any change of a zone's offset, so that nothing near a change is taken for ordinary.
_NEAR = timedelta(hours=26)
#: No clock is set by more (a change of the date line, which no zone has ahead of it, aside).
_LARGEST_CHANGE = timedelta(hours=3)


@dataclass(frozen=True)
class Run:
    """One run: when, in the schedule's zone, and whether the clocks change around it."""

    at: datetime
    change: Literal["", "gap", "repeated", "first-of-two"] = ""
    written: str = ""  # the wall-clock time that the schedule names, where a gap moved it

    @property
    def note(self) -> str:
        """A sentence for the operator, empty on ordinary days."""
        if self.change == "gap":
            return f"{self.written} does not exist on this day (clocks go forward): runs at {self.at:%H:%M}."
        if self.change == "first-of-two":
            return f"{self.at:%H:%M} comes twice on this day (clocks go back): runs the first time only."
        if self.change == "repeated":
            return f"{self.at:%H:%M} comes twice on this day (clocks go back): runs both times."
        return ""


def next_runs(cron: Cron, zone: tzinfo, now: datetime, count: int = 5) -> list[Run]:
    """The next ``count`` runs strictly after ``now`` (aware); fewer if the schedule dies out."""
    runs: list[Run] = []
    after = now
    while len(runs) < count and (run := next_run(cron, zone, after)) is not None:
        runs.append(run)
        after = run.at
    return runs


def next_run(cron: Cron, zone: tzinfo, after: datetime) -> Run | None:
    """The first run strictly after ``after`` (aware)."""
    local = after.astimezone(zone)
    wall = _next_wall(cron, local.replace(tzinfo=None))
    if wall is None:
        return None
    near_change = not _quiet(local, zone)
    if not near_change and _quiet(wall.replace(tzinfo=zone), zone):
        return Run(wall.replace(tzinfo=zone))
    from_wall = (local.replace(tzinfo=None) if near_change else wall) - _LARGEST_CHANGE
    return _search_near_change(cron, zone, after, from_wall)


def next_interval_runs(every: timedelta, last: datetime | None, now: datetime, count: int = 5) -> list[Run]:
    """Runs of an interval: counted from the last one; an overdue one runs now."""
    first = now + every if last is None else max(last + every, now)
    return [Run((first + number * every).astimezone(now.tzinfo)) for number in range(count)]


def _matches(cron: Cron, day: date) -> bool:
    return day.day in cron.days and day.month in cron.months and day.isoweekday() % 7 in cron.weekdays


def _matching_days(cron: Cron, start: date, last: date) -> Iterator[date]:
    day = start
    while day <= last:
        if day.month not in cron.months:
            day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            continue
        if _matches(cron, day):
            yield day
        day += timedelta(days=1)


def _next_wall(cron: Cron, after: datetime) -> datetime | None:
    """The next wall-clock time, naive, that the fields name, whatever the clocks do."""
    if _matches(cron, after.date()):
        hour = after.hour
        if hour in cron.hours:
            place = bisect_right(cron.minutes, after.minute)
            if place < len(cron.minutes):
                return datetime.combine(after.date(), time(hour, cron.minutes[place]))
        place = bisect_right(cron.hours, hour)
        if place < len(cron.hours):
            return datetime.combine(after.date(), time(cron.hours[place], cron.minutes[0]))
    start = after.date() + timedelta(days=1)
    for day in _matching_days(cron, start, start + _FURTHEST):
        return datetime.combine(day, time(cron.hours[0], cron.minutes[0]))
    return None


def _quiet(moment: datetime, zone: tzinfo) -> bool:
    """Whether no clock changes within a day around ``moment`` (aware, in ``zone``)."""
    instant = moment.astimezone(UTC)
    return (instant - _NEAR).astimezone(zone).utcoffset() == (instant + _NEAR).astimezone(zone).utcoffset()


def _runs_of_day(cron: Cron, zone: tzinfo, day: date, from_wall: datetime) -> Iterator[Run]:
    for hour in cron.hours:
        if datetime.combine(day, time(hour, 59)) < from_wall:
            continue
        for minute in cron.minutes:
            wall = datetime.combine(day, time(hour, minute))
            first, second = wall.replace(tzinfo=zone, fold=0), wall.replace(tzinfo=zone, fold=1)
            seen = first.astimezone(UTC).astimezone(zone)
            if seen.replace(tzinfo=None, fold=0) != wall:
                yield Run(seen, "gap", f"{wall:%H:%M}")
            elif first.utcoffset() == second.utcoffset():
                yield Run(first)
            elif cron.runs_every_hour:
                yield Run(first, "repeated")
                yield Run(second, "repeated")
            else:
                yield Run(first, "first-of-two")


def _search_near_change(cron: Cron, zone: tzinfo, after: datetime, from_wall: datetime) -> Run | None:
    """Look at each time one by one around a clock change, where a moved run may overtake a later one."""
    best: Run | None = None
    instant, start = after.astimezone(UTC), from_wall.date()
    for day in _matching_days(cron, start, start + _FURTHEST):
        for run in _runs_of_day(cron, zone, day, from_wall):
            at = run.at.astimezone(UTC)
            if best is not None and at > best.at.astimezone(UTC) + _LARGEST_CHANGE:
                return best
            if at > instant and (best is None or _earlier(run, best)):
                best = run
    return best


def _earlier(run: Run, best: Run) -> bool:
    """Compared as instants; of two at one instant the one that the clock shows wins over a moved one."""
    at, best_at = run.at.astimezone(UTC), best.at.astimezone(UTC)
    return at < best_at or (at == best_at and best.change == "gap" and run.change != "gap")
