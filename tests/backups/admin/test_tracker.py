"""Thirty days of a plan: what each day's cell says, on ordinary days and when clocks change."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backups.admin import tracker
from backups.admin.tracker import Run, cells, days_until, expected_days
from controlplane.kernel.cron import parse

DAY = date(2026, 11, 23)
NIGHTLY = parse("0 2 * * *")


def run(hour: int = 2, *, state: str = "committed", proven: bool = False, day: date = DAY) -> Run:
    at = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    return Run(hour, f"run-{hour}", at, state, state in ("committed", "expiring", "deleted"), proven)


@pytest.mark.parametrize(
    ("runs", "expected", "kind"),
    [
        ([], False, "none"),
        ([], True, "missed"),
        ([run()], True, "committed"),
        ([run(proven=True)], True, "proven"),
        ([run(state="failed")], True, "failed"),
        ([run(state="running")], True, "running"),
        ([run(state="cancelled")], True, "none"),
        ([run(state="deleted")], False, "committed"),
        ([run(2, state="failed"), run(3)], True, "committed"),
        ([run(2), run(3, proven=True)], True, "proven"),
        ([run(2, state="failed"), run(3, state="running")], True, "running"),
    ],
)
def test_a_day_is_told_by_the_best_of_its_runs(runs: list[Run], expected: bool, kind: str) -> None:
    (cell,) = cells([DAY], runs, UTC, {DAY} if expected else set())
    assert cell.kind == kind
    assert cell.text.startswith(f"23 Nov: {tracker.WORDS[cell.kind]}")


def test_a_run_belongs_to_the_day_of_the_plans_zone() -> None:
    late = Run(1, "late", datetime(2026, 11, 22, 23, 30, tzinfo=UTC), "committed", True, False)
    before, of_the_day = cells([DAY - timedelta(days=1), DAY], [late], ZoneInfo("Europe/Rome"), set())
    assert (before.kind, of_the_day.kind) == ("none", "committed")


def test_cells_name_their_runs_newest_first_and_count_them() -> None:
    (cell,) = cells([DAY], [run(2), run(14), run(9)], UTC, set())
    assert [one.pk for one in cell.runs] == [14, 9, 2]
    assert cell.text == "23 Nov: saved, 3 runs"


def test_there_are_thirty_days_and_today_is_the_last() -> None:
    days = days_until(DAY)
    assert (len(days), days[-1], days[0]) == (30, DAY, date(2026, 10, 25))


def test_a_day_is_expected_once_its_run_is_an_hour_late() -> None:
    days, made = days_until(DAY, 3), datetime(2026, 1, 1, tzinfo=UTC)
    almost = datetime(2026, 11, 23, 2, 59, tzinfo=UTC)
    assert expected_days(NIGHTLY, UTC, days, made, almost) == {date(2026, 11, 21), date(2026, 11, 22)}
    assert expected_days(NIGHTLY, UTC, days, made, almost + timedelta(minutes=1)) == set(days)


def test_no_day_before_the_plan_was_made_is_missed() -> None:
    days, made = days_until(DAY, 5), datetime(2026, 11, 21, 12, tzinfo=UTC)
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert expected_days(NIGHTLY, UTC, days, made, now) == {date(2026, 11, 22), DAY}


def test_days_on_which_clocks_change_are_expected_once_each() -> None:
    rome, made = ZoneInfo("Europe/Rome"), datetime(2026, 1, 1, tzinfo=UTC)
    half_past_two = parse("30 2 * * *")
    for day in (date(2026, 3, 29), date(2026, 10, 25)):
        days = days_until(day, 2)
        now = datetime(day.year, day.month, day.day, 22, tzinfo=UTC)
        assert expected_days(half_past_two, rome, days, made, now) == set(days)


def test_a_plan_that_runs_each_minute_is_looked_at_by_day() -> None:
    days, made = days_until(DAY), datetime(2026, 1, 1, tzinfo=UTC)
    begun = time.process_time()
    found = expected_days(parse("* * * * *"), UTC, days, made, datetime(2026, 11, 23, 12, tzinfo=UTC))
    assert found == set(days)
    assert time.process_time() - begun < 1


def test_a_weekly_plan_misses_only_its_weekday() -> None:
    days, made = days_until(DAY, 14), datetime(2026, 1, 1, tzinfo=UTC)
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert expected_days(parse("0 4 * * 0"), UTC, days, made, now) == {date(2026, 11, 15), date(2026, 11, 22)}
