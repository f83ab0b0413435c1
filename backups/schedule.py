"""When a plan should have run last. Pure; the times themselves are those of ``controlplane.kernel.nextruns``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from controlplane.kernel.cron import Cron
from controlplane.kernel.nextruns import next_run

#: How far to look back, from the most frequent schedule to the rarest: February 29 on one weekday.
_WINDOWS = tuple(timedelta(days=days) for days in (1 / 24, 1, 8, 32, 367, 9 * 366, 41 * 366))
_MINUTE = timedelta(minutes=1)


def latest_due(cron: Cron, zone: tzinfo, now: datetime) -> datetime | None:
    """The latest time (UTC) at or before ``now`` at which the schedule was to run; None if there never was one.

    On the days on which clocks change it says what ``next_run`` says: a time that does not exist is due as much
    later as the clock jumps, a time that comes twice is due the first time only.
    """
    now = now.astimezone(UTC)
    for window in _WINDOWS:
        if _first_after(cron, zone, now - window, now) is not None:
            return _latest(cron, zone, now - window, now)
    return None


def _latest(cron: Cron, zone: tzinfo, low: datetime, now: datetime) -> datetime | None:
    """Halve the time in which the run lies; whether one comes after an instant is monotone in it."""
    high = now
    while high - low > _MINUTE:
        middle = low + (high - low) / 2
        if _first_after(cron, zone, middle, now) is None:
            high = middle
        else:
            low = middle
    found = last = _first_after(cron, zone, low, now)
    while found is not None:
        last, found = found, _first_after(cron, zone, found, now)
    return last


def _first_after(cron: Cron, zone: tzinfo, after: datetime, now: datetime) -> datetime | None:
    run = next_run(cron, zone, after)
    at = run.at.astimezone(UTC) if run is not None else None
    return at if at is not None and at <= now else None
