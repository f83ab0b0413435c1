"""Thirty days of a plan, one cell a day: what became of the backups of that day. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from typing import Literal

from controlplane.kernel.cron import Cron
from controlplane.kernel.nextruns import next_run

DAYS = 30
#: A day's run counts as missed once it is this late and nothing was begun for it.
GRACE = timedelta(hours=1)

Kind = Literal["proven", "committed", "running", "failed", "missed", "none"]

#: In words: what a cell says, and the legend.
WORDS: dict[Kind, str] = {
    "proven": "saved and proven to restore",
    "committed": "saved",
    "running": "running",
    "failed": "failed",
    "missed": "missed: no run was begun",
    "none": "no backup",
}


@dataclass(frozen=True)
class Run:
    """One restore point as the tracker looks at it."""

    pk: int
    name: str
    at: datetime
    state: str
    was_committed: bool
    is_proven: bool


@dataclass(frozen=True)
class Cell:
    """One day. ``runs``: the restore points begun on it, newest first."""

    day: date
    kind: Kind
    runs: tuple[Run, ...]

    @property
    def text(self) -> str:
        """For whoever does not see the cell: the day, and what became of it."""
        more = f", {len(self.runs)} runs" if len(self.runs) > 1 else ""
        return f"{self.day:%d %b}: {WORDS[self.kind]}{more}"


def days_until(today: date, count: int = DAYS) -> list[date]:
    """The last ``count`` days, oldest first, today the last."""
    return [today - timedelta(days=back) for back in range(count - 1, -1, -1)]


def cells(days: Sequence[date], runs: Iterable[Run], zone: tzinfo, expected: Collection[date]) -> list[Cell]:
    """A cell for each day. The best of a day counts: a failure that was made up for the same day is no failure."""
    by_day: dict[date, list[Run]] = {}
    for run in runs:
        by_day.setdefault(run.at.astimezone(zone).date(), []).append(run)
    return [_cell(day, by_day.get(day, []), day in expected) for day in days]


def _cell(day: date, runs: list[Run], is_expected: bool) -> Cell:
    newest_first = tuple(sorted(runs, key=lambda run: run.at, reverse=True))
    kind: Kind
    if any(run.is_proven for run in runs):
        kind = "proven"
    elif any(run.was_committed for run in runs):
        kind = "committed"
    elif any(run.state in ("queued", "running") for run in runs):
        kind = "running"
    elif any(run.state == "failed" for run in runs):
        kind = "failed"
    else:
        kind = "missed" if is_expected and not runs else "none"
    return Cell(day, kind, newest_first)


def expected_days(cron: Cron, zone: tzinfo, days: Sequence[date], since: datetime, now: datetime) -> set[date]:
    """The days on which the schedule should have begun a run by now; none before ``since``."""
    first = datetime(days[0].year, days[0].month, days[0].day, tzinfo=zone) - timedelta(seconds=1)
    after = max(first, since.astimezone(zone))
    found: set[date] = set()
    while (run := next_run(cron, zone, after)) is not None and run.at <= now - GRACE:
        day = run.at.astimezone(zone).date()
        found.add(day)
        # One run makes the day; the rest of it is passed over, or a plan that runs each minute would be slow.
        end_of_day = datetime(day.year, day.month, day.day, 23, 59, tzinfo=zone)
        after = max(run.at, end_of_day)
    return found
