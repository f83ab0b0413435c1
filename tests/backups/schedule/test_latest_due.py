"""``latest_due``: when a plan should have run last, also on the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.schedule import latest_due
from controlplane.kernel.cron import parse
from controlplane.kernel.nextruns import next_run

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "now", "due"),
    [
        ("0 2 * * *", "2026-11-23T02:00:00", "2026-11-23T02:00:00"),
        ("0 2 * * *", "2026-11-23T01:59:59", "2026-11-22T02:00:00"),
        ("* * * * *", "2026-11-23T07:30:31", "2026-11-23T07:30:00"),
        ("*/15 8-18 * * mon", "2026-11-22T12:00:00", "2026-11-16T18:45:00"),
        ("0 0 1 * *", "2026-11-23T00:00:00", "2026-11-01T00:00:00"),
        ("0 4 1 1 *", "2026-11-23T00:00:00", "2026-01-01T04:00:00"),
        ("0 0 29 2 *", "2026-11-23T00:00:00", "2024-02-29T00:00:00"),
        ("0 0 29 2 1", "2026-11-23T00:00:00", "2016-02-29T00:00:00"),
    ],
)
def test_the_latest_time_at_or_before_now(cron: str, now: str, due: str) -> None:
    assert latest_due(parse(cron), UTC, utc(now)) == utc(due)


def ticked(cron: str, zone: ZoneInfo, start: str, hours: int) -> list[datetime]:
    """The distinct due times that a tick of every five minutes sees, in order."""
    seen: list[datetime] = []
    first = utc(start)
    for minute in range(0, hours * 60, 5):
        due = latest_due(parse(cron), zone, first + timedelta(minutes=minute))
        assert due is not None
        assert due <= first + timedelta(minutes=minute)
        if not seen or due != seen[-1]:
            assert not seen or due > seen[-1], "a due time never goes back"
            seen.append(due)
    return [due for due in seen if due >= first]


@pytest.mark.parametrize("minute", [0, 15, 30, 59])
@pytest.mark.parametrize(
    ("zone", "day"),
    [
        pytest.param(BERLIN, "2026-03-29", id="Berlin, clocks go forward"),
        pytest.param(BERLIN, "2026-10-25", id="Berlin, clocks go back"),
        pytest.param(NEW_YORK, "2026-03-08", id="New York, clocks go forward"),
        pytest.param(NEW_YORK, "2026-11-01", id="New York, clocks go back"),
    ],
)
@pytest.mark.parametrize("hour", [1, 2])
def test_a_nightly_run_is_due_exactly_once_on_the_days_on_which_clocks_change(
    zone: ZoneInfo, day: str, hour: int, minute: int
) -> None:
    midnight = datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(UTC)
    due = ticked(f"{minute} {hour} * * *", zone, midnight.replace(tzinfo=None).isoformat(), 23)
    assert len(due) == 1
    assert due[0].astimezone(zone).strftime("%Y-%m-%d") == day
    local = due[0].astimezone(zone)
    written = local.replace(hour=hour, minute=minute, fold=0)
    if written.astimezone(UTC).astimezone(zone).hour == hour:
        assert (local.hour, local.minute, local.fold) == (hour, minute, 0)
    else:  # the hour is left out that night: as much later as the clocks jump
        assert (local.hour, local.minute) == (hour + 1, minute)


@settings(max_examples=150, deadline=None)
@given(
    cron=st.sampled_from(["* * * * *", "0 2 * * *", "30 2 * * *", "*/7 */5 * * *", "15 1-3 * * sun", "5 4 1,15 * *"]),
    zone=st.sampled_from([UTC, BERLIN, NEW_YORK, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kathmandu")]),
    seconds=st.integers(0, 2 * 366 * 86400),
)
def test_nothing_is_due_between_the_latest_and_now(cron: str, zone: ZoneInfo, seconds: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    parsed = parse(cron)
    due = latest_due(parsed, zone, now)
    assert due is not None
    assert due <= now
    assert due.second == 0
    following = next_run(parsed, zone, due)
    assert following is not None
    assert following.at.astimezone(UTC) > now
    reached = next_run(parsed, zone, due - timedelta(seconds=1))
    assert reached is not None
    assert reached.at.astimezone(UTC) == due
