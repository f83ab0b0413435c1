"""When a schedule runs next: against Celery between clock changes, and by the almanac on their days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django_celery_beat.tzcrontab import TzAwareCrontab
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.kernel.cron import Cron, CronError, cron_in_words, interval_in_words, parse
from controlplane.kernel.nextruns import next_interval_runs, next_run, next_runs

ROME = ZoneInfo("Europe/Rome")
NEW_YORK = ZoneInfo("America/New_York")


def times(cron: str, zone: ZoneInfo, now: datetime, count: int = 5) -> list[str]:
    return [run.at.isoformat(timespec="minutes") for run in next_runs(parse(cron), zone, now, count)]


def notes(cron: str, zone: ZoneInfo, now: datetime, count: int = 5) -> list[str]:
    return [run.note for run in next_runs(parse(cron), zone, now, count)]


class CeleryAt(TzAwareCrontab):
    """Celery's own crontab, asked at a time of our choice."""

    asked_at: datetime

    def nowfunc(self) -> datetime:
        return self.asked_at


def celery_next(cron: Cron, zone: ZoneInfo, last: datetime) -> datetime:
    known = CeleryAt(**cron.columns(), tz=zone)
    known.asked_at = last
    return last + known.remaining_estimate(last.astimezone(zone))


def a_field(least: int, most: int) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    item = st.one_of(
        number.map(str),
        st.tuples(number, number).map(lambda p: f"{p[0]}-{p[1]}"),
        st.tuples(number, number, st.integers(1, min(9, most))).map(lambda p: f"{p[0]}-{p[1]}/{p[2]}"),
        st.integers(1, most).map(lambda n: f"*/{n}"),
    )
    return st.one_of(st.just("*"), st.lists(item, min_size=1, max_size=3).map(",".join))


crons = st.tuples(
    a_field(0, 59), a_field(0, 23), st.one_of(st.just("*"), a_field(1, 28)), a_field(1, 12), a_field(0, 6)
).map(" ".join)
instants = st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@settings(max_examples=300, deadline=None)
@given(crons, instants, st.sampled_from([ZoneInfo("UTC"), ROME, NEW_YORK, ZoneInfo("Asia/Kolkata")]))
def test_away_from_clock_changes_the_next_run_is_celerys(text: str, last: datetime, zone: ZoneInfo) -> None:
    cron = parse(text)
    run = next_run(cron, zone, last)
    theirs = celery_next(cron, zone, last)
    assert run is not None

    def offset(at: datetime, days: int) -> timedelta | None:
        return (at + timedelta(days=days)).astimezone(zone).utcoffset()

    changing = any(offset(at, -2) != offset(at, 2) for at in (last, theirs))
    if not changing:
        assert run.at.astimezone(UTC) == theirs
        assert run.note == ""


@settings(max_examples=150, deadline=None)
@given(crons, st.datetimes(datetime(2026, 10, 23), datetime(2026, 10, 27), timezones=st.just(UTC)))
def test_runs_always_go_forward_and_never_lie_more_than_a_matching_day_apart(text: str, now: datetime) -> None:
    found = [run.at.astimezone(UTC) for run in next_runs(parse(text), ROME, now, 8)]
    assert len(found) == 8
    assert found == sorted(set(found))
    assert found[0] > now


def test_a_time_that_does_not_exist_runs_once_an_hour_later_and_says_so() -> None:
    now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert times("30 2 * * *", ROME, now, 3) == [
        "2026-03-29T03:30+02:00",
        "2026-03-30T02:30+02:00",
        "2026-03-31T02:30+02:00",
    ]
    assert notes("30 2 * * *", ROME, now, 2) == [
        "02:30 does not exist on this day (clocks go forward): runs at 03:30.",
        "",
    ]


def test_two_times_in_the_gap_both_run_and_one_that_meets_another_runs_once() -> None:
    now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert times("0,30 2 * * *", ROME, now, 3) == [
        "2026-03-29T03:00+02:00",
        "2026-03-29T03:30+02:00",
        "2026-03-30T02:00+02:00",
    ]
    assert times("0 2,3 * * *", ROME, now, 2) == ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]
    assert notes("0 2,3 * * *", ROME, now, 1) == [""]


def test_a_time_that_comes_twice_runs_the_first_time_only() -> None:
    now = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert times("30 2 * * *", ROME, now, 2) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    assert notes("30 2 * * *", ROME, now, 1) == [
        "02:30 comes twice on this day (clocks go back): runs the first time only."
    ]
    assert times("30 2 * * *", ROME, datetime(2026, 10, 25, 0, 45, tzinfo=UTC), 1) == ["2026-10-26T02:30+01:00"]


def test_a_schedule_of_every_hour_does_not_fall_silent_in_the_repeated_hour() -> None:
    assert times("*/30 * * * *", ROME, datetime(2026, 10, 25, 0, 10, tzinfo=UTC), 5) == [
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T02:30+01:00",
        "2026-10-25T03:00+01:00",
        "2026-10-25T03:30+01:00",
    ]
    assert notes("*/30 * * * *", ROME, datetime(2026, 10, 25, 0, 10, tzinfo=UTC), 1) == [
        "02:30 comes twice on this day (clocks go back): runs both times."
    ]


def test_the_days_of_change_in_new_york() -> None:
    assert times("15 2 * * *", NEW_YORK, datetime(2026, 3, 7, 12, tzinfo=UTC), 2) == [
        "2026-03-08T03:15-04:00",
        "2026-03-09T02:15-04:00",
    ]
    assert times("15 1 * * *", NEW_YORK, datetime(2026, 10, 31, 12, tzinfo=UTC), 2) == [
        "2026-11-01T01:15-04:00",
        "2026-11-02T01:15-05:00",
    ]


def test_a_change_by_half_an_hour_and_one_at_midnight_are_right_too() -> None:
    lord_howe, santiago = ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/Santiago")
    assert times("15 2 * * *", lord_howe, datetime(2026, 10, 3, 0, tzinfo=UTC), 1) == ["2026-10-04T02:45+11:00"]
    assert times("30 0 * * *", santiago, datetime(2026, 9, 5, 12, tzinfo=UTC), 2) == [
        "2026-09-06T01:30-03:00",
        "2026-09-07T00:30-03:00",
    ]


def test_a_rare_day_is_found_and_both_day_fields_must_match() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert times("0 0 29 2 1", ZoneInfo("UTC"), now, 1) == ["2044-02-29T00:00+00:00"]
    assert times("0 3 1-7 * 1", ZoneInfo("UTC"), now, 2) == ["2026-12-07T03:00+00:00", "2027-01-04T03:00+00:00"]


def test_an_interval_counts_from_its_last_run_and_an_overdue_one_runs_now() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    every = timedelta(minutes=10)
    later = [run.at for run in next_interval_runs(every, now - timedelta(minutes=4), now, 2)]
    assert later == [now + timedelta(minutes=6), now + timedelta(minutes=16)]
    overdue = [run.at for run in next_interval_runs(every, now - timedelta(hours=4), now, 2)]
    assert overdue == [now, now + timedelta(minutes=10)]
    assert next_interval_runs(every, None, now, 1)[0].at == now + timedelta(minutes=10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The cron expression is empty."),
        ("* * * *", "this one has 4."),
        ("75 * * * *", "minute 75 is outside 0–59."),
        ("0 24 * * *", "hour 24 is outside 0–23."),
        ("0 0 0 * *", "day of the month 0 is outside 1–31."),
        ("0 0 * 13 *", "month 13 is outside 1–12."),
        ("0 0 * * 8", "day of the week 8 is outside 0–7."),
        ("mon * * * *", "“mon” is no minute."),
        ("5/10 * * * *", "“5/10”: a step needs * or a range before it."),
        ("*/0 * * * *", "The step “0” of the minute is not a number from 1 to 59."),
        ("*/x * * * *", "The step “x” of the minute is not a number from 1 to 59."),
        ("*/ * * * *", "The step “” of the minute"),
        ("1,,2 * * * *", "“” is no minute."),
        ("1-2-3 * * * *", "“1-2-3” is no minute."),
        ("-5 * * * *", "“-5” is no minute."),
        ("*-5 * * * *", "is no range of the minute."),
        ("0 0 30 2 *", "Day 30 never comes in month 2."),
        ("@daily", "this one has 1."),
        ("٣ * * * *", "is no minute."),
        (",".join(str(n % 60) for n in range(120)) + " * * * *", "The minute field is longer than 240 characters."),
    ],
)
def test_a_wrong_cron_is_refused_with_a_sentence_that_names_the_fault(text: str, sentence: str) -> None:
    with pytest.raises(CronError) as refused:
        parse(text)
    assert sentence in refused.value.message


def test_sunday_may_be_seven_and_is_stored_as_celery_knows_it() -> None:
    assert str(parse("0 0 * * 7")) == "0 0 * * 0"
    assert parse("0 0 * * 5-7").weekdays == {5, 6, 0}
    assert parse("0 0 * * 0-7").weekdays == set(range(7))
    assert parse("0 0 * JAN Mon-fri").weekdays == {1, 2, 3, 4, 5}


def test_schedules_in_words_are_british_with_24_hours() -> None:
    assert cron_in_words(parse("0 15 * * 1")) == "At 15:00, only on Monday"
    assert cron_in_words(parse("*/5 * * * *")) == "Every 5 minutes"
    assert interval_in_words(30, "seconds") == "every 30 s"
    assert interval_in_words(1, "days") == "every day"
    assert interval_in_words(3, "days") == "every 3 days"
