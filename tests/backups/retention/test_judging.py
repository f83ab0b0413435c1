"""The pure judge: which sets are kept, with which words. No database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.retention import Figures, Judgement, Rules, Set, judge, unusual_drop
from controlplane.kernel.errors import Refused

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


def nightly(count: int, **columns: Any) -> list[Set]:
    """Key 0 is tonight's, key 1 last night's."""
    return [Set(key, NOW - timedelta(days=key, hours=1), **columns) for key in range(count)]


def at(text: str, zone: Any = UTC) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def kept(judged: list[Judgement]) -> dict[int, tuple[str, ...]]:
    return {one.key: one.reasons for one in judged if one.keep}


# --- rules -----------------------------------------------------------------------------------------------------


def test_an_empty_policy_is_refused() -> None:
    with pytest.raises(Refused, match="would keep nothing"):
        judge(nightly(3), Rules(), NOW, UTC)
    with pytest.raises(Refused, match="negative"):
        judge(nightly(3), Rules(keep_last=-1, keep_daily=2), NOW, UTC)


def test_everything_is_judged_newest_first_and_what_goes_has_no_reason() -> None:
    judged = judge(list(reversed(nightly(4))), Rules(keep_last=2), NOW, UTC)
    assert [one.key for one in judged] == [0, 1, 2, 3]
    assert judged[3] == Judgement(3, keep=False, reasons=())
    assert judged[1].reasons == ("among the newest 2",)


def test_keep_within_counts_days_from_now_to_the_second() -> None:
    edge = Set(1, NOW - timedelta(days=30))
    inside = Set(2, NOW - timedelta(days=30) + timedelta(seconds=1))
    judged = kept(judge([Set(0, NOW, verified=True), edge, inside], Rules(keep_within_days=30), NOW, UTC))
    assert judged == {0: ("younger than 30 days", "last verified"), 2: ("younger than 30 days",)}


def test_the_newest_of_each_day_is_kept_and_days_without_a_set_do_not_count() -> None:
    sets = [
        Set(1, at("2026-11-23T02:00")),
        Set(2, at("2026-11-23T01:00")),
        Set(3, at("2026-11-20T02:00")),
        Set(4, at("2026-11-11T02:00")),
        Set(5, at("2026-11-10T02:00")),
    ]
    judged = kept(judge(sets, Rules(keep_daily=3), NOW, UTC))
    assert judged == {
        1: ("newest of 2026-11-23", "last committed, as none is verified"),
        3: ("newest of 2026-11-20",),
        4: ("newest of 2026-11-11",),
    }


def test_hours_weeks_months_and_years_have_their_own_words() -> None:
    (judged,) = judge([Set(1, at("2026-01-01T02:30"), verified=True)], Rules(0, 1, 0, 1, 1, 1), NOW, UTC)
    assert judged.reasons == (
        "newest of 2026-01-01 02 h", "newest of 2026-W01", "newest of 2026-01", "newest of 2026", "last verified",
    )  # fmt: skip


def test_an_iso_week_may_belong_to_another_year_than_its_days() -> None:
    sets = [Set(1, at("2027-01-03T02:00")), Set(2, at("2026-12-28T02:00")), Set(3, at("2026-12-27T02:00"))]
    judged = kept(judge(sets, Rules(keep_weekly=2), at("2027-01-04T00:00"), UTC))
    assert judged == {
        1: ("newest of 2026-W53", "last committed, as none is verified"),
        3: ("newest of 2026-W52",),
    }  # one week: the 28th of December to the 3rd of January


def test_days_begin_at_midnight_in_the_zone_of_the_plan() -> None:
    sets = [Set(1, at("2026-07-02T03:30")), Set(2, at("2026-07-01T23:30")), Set(3, at("2026-07-01T03:30"))]
    now = at("2026-07-02T12:00")
    assert set(kept(judge(sets, Rules(keep_daily=2), now, UTC))) == {1, 2}
    # In New York the first two are of one day, and the third of the day before.
    in_new_york = kept(judge(sets, Rules(keep_daily=2), now, NEW_YORK))
    assert set(in_new_york) == {1, 3}
    assert in_new_york[3] == ("newest of 2026-06-30",)


@pytest.mark.parametrize(("zone", "day"), [(BERLIN, "2026-10-25"), (NEW_YORK, "2026-11-01")])
def test_a_day_of_twenty_five_hours_is_one_day_and_its_repeated_hour_two_hours(zone: ZoneInfo, day: str) -> None:
    midnight = at(f"{day}T00:00", zone).astimezone(UTC)
    sets = [Set(hour, midnight + timedelta(hours=hour)) for hour in range(25)]
    now = midnight + timedelta(hours=25)
    assert set(kept(judge(sets, Rules(keep_daily=1), now, zone))) == {24}
    assert len(kept(judge(sets, Rules(keep_hourly=25), now, zone))) == 25


@pytest.mark.parametrize(("zone", "day"), [(BERLIN, "2026-03-29"), (NEW_YORK, "2026-03-08")])
def test_a_day_of_twenty_three_hours_is_one_day(zone: ZoneInfo, day: str) -> None:
    midnight = at(f"{day}T00:00", zone).astimezone(UTC)
    sets = [Set(hour, midnight + timedelta(hours=hour)) for hour in range(23)]
    assert set(kept(judge(sets, Rules(keep_daily=1), midnight + timedelta(hours=23), zone))) == {22}


def test_the_oldest_stays_while_a_rule_has_not_enough_of_its_kind() -> None:
    judged = kept(judge(nightly(20), Rules(keep_monthly=12), NOW, UTC))
    assert judged[19] == ("the oldest, as not all 12 months have one",)
    assert set(judged) == {0, 19}


def test_the_oldest_goes_once_the_rule_is_full() -> None:
    assert set(kept(judge(nightly(20), Rules(keep_daily=5), NOW, UTC))) == {0, 1, 2, 3, 4}


def test_each_rule_adds_its_own_sets_and_reasons() -> None:
    judged = kept(judge(nightly(60), Rules(keep_last=1, keep_daily=7, keep_weekly=4, keep_monthly=2), NOW, UTC))
    assert judged[0] == (
        "the newest", "newest of 2026-11-23", "newest of 2026-W48", "newest of 2026-11",
        "last committed, as none is verified",
    )  # fmt: skip
    assert judged[1] == ("newest of 2026-11-22", "newest of 2026-W47")
    assert judged[23] == ("newest of 2026-10",)
    assert set(judged) == {0, 1, 2, 3, 4, 5, 6, 8, 15, 23}


# --- what no rule may take -------------------------------------------------------------------------------------


def test_the_last_verified_set_stays_however_old_it_is() -> None:
    old = [Set(99, NOW - timedelta(days=400), verified=True), Set(98, NOW - timedelta(days=401), verified=True)]
    sets = [*nightly(5), *old]
    assert kept(judge(sets, Rules(keep_last=1), NOW, UTC)) == {0: ("the newest",), 99: ("last verified",)}


def test_pinned_sets_and_those_in_use_stay() -> None:
    sets = [
        *nightly(1),
        Set(7, NOW - timedelta(days=90), pinned=True),
        Set(8, NOW - timedelta(days=91), in_use_by="zantara-restore-2026-11-23"),
        Set(9, NOW - timedelta(days=92)),
    ]
    judged = kept(judge(sets, Rules(keep_last=1), NOW, UTC))
    assert judged[7] == ("pinned",)
    assert judged[8] == ("in use by zantara-restore-2026-11-23",)
    assert 9 not in judged


def test_sets_from_the_future_are_neither_newest_nor_deleted() -> None:
    sets = [Set(50, NOW + timedelta(days=3), verified=True), *nightly(3)]
    judged = kept(judge(sets, Rules(keep_last=1, keep_daily=1), NOW, UTC))
    assert judged == {
        50: ("from the future",),
        0: ("the newest", "newest of 2026-11-23", "last committed, as none is verified"),
    }


def test_a_partial_or_damaged_set_takes_no_other_sets_place() -> None:
    sets = [
        Set(1, at("2026-11-23T02:30"), sound=False),
        Set(2, at("2026-11-23T02:00")),
        Set(3, at("2026-11-22T02:00")),
    ]
    judged = kept(judge(sets, Rules(keep_daily=1), NOW, UTC))
    assert judged[2] == ("newest of 2026-11-23", "last committed, as none is verified")
    assert "newest of 2026-11-23" in judged[1]
    assert 3 not in judged


def test_a_verified_but_partial_set_does_not_stand_for_the_last_whole_one() -> None:
    sets = [Set(1, NOW - timedelta(days=40), verified=True, sound=False), Set(2, NOW - timedelta(days=50), True)]
    judged = kept(judge([*nightly(1), *sets], Rules(keep_last=1), NOW, UTC))
    assert judged[2] == ("last verified",)


@settings(max_examples=200, deadline=None)
@given(
    ages=st.lists(st.integers(-72, 24 * 800), min_size=1, max_size=60, unique=True),
    rules=st.builds(
        Rules, *[st.integers(0, 5)] * 6, keep_within_days=st.integers(0, 60)
    ).filter(lambda rules: any(vars(rules).values())),
    verified=st.sets(st.integers(0, 59)),
    zone=st.sampled_from([UTC, BERLIN, NEW_YORK]),
)  # fmt: skip
def test_whatever_the_rules_something_that_restores_is_left(
    ages: list[int], rules: Rules, verified: set[int], zone: ZoneInfo
) -> None:
    sets = [Set(key, NOW - timedelta(hours=age), verified=key in verified) for key, age in enumerate(ages)]
    judged = judge(sets, rules, NOW, zone)
    assert sorted(one.key for one in judged) == sorted(one.key for one in sets)
    assert all(one.keep == bool(one.reasons) for one in judged)
    held = kept(judged)
    past = [one for one in sets if one.at <= NOW]
    assert all(one.key in held for one in sets if one.at > NOW)
    if past:
        candidates = [one for one in past if one.verified] or past
        assert max(candidates, key=lambda one: one.at).key in held
        assert judged == judge(sets, rules, NOW, zone), "the same question has the same answer"
    # Judging what is left keeps what is left: nothing is taken in two turns that one would have kept.
    again = judge([one for one in sets if one.key in held], rules, NOW, zone)
    if not any(getattr(rules, rule) for rule in ("keep_hourly", "keep_daily", "keep_weekly", "keep_monthly")):
        assert all(one.keep for one in again)


# --- an unusual drop -------------------------------------------------------------------------------------------


def figures(size: int, rows: int | None = None, name: str = "db") -> Figures:
    return Figures({name: size}, {} if rows is None else {name: rows})


def test_half_the_usual_size_is_no_drop_and_less_is() -> None:
    before = [figures(1000)] * 5
    assert unusual_drop(figures(500), before) == ""
    assert unusual_drop(figures(499), before) == "It holds 499 bytes, 50 % less than usual (1000)."


def test_rows_are_compared_per_source() -> None:
    before = [Figures({"db": 100, "vectors": 100}, {"db": 5000, "vectors": 10})] * 3
    newest = Figures({"db": 100, "vectors": 100}, {"db": 5000, "vectors": 4})
    assert unusual_drop(newest, before) == "vectors holds 4 rows, 60 % less than usual (10)."


def test_it_is_compared_with_the_median_of_the_last_five() -> None:
    assert unusual_drop(figures(100), [figures(size) for size in (90, 100, 5000, 110, 100, 9000, 9000, 9000)]) == ""
    assert unusual_drop(figures(10), [figures(size) for size in (90, 100, 5000, 110, 100)]) != ""


def test_a_source_that_was_added_or_taken_out_is_no_drop() -> None:
    before = [Figures({"db": 100, "logs": 10_000})] * 5
    assert unusual_drop(Figures({"db": 100}), before) == ""
    assert unusual_drop(Figures({"db": 100, "new": 1}), before) == ""
    assert unusual_drop(Figures({"other": 1}), before) == ""


def test_without_anything_before_nothing_is_unusual() -> None:
    assert unusual_drop(figures(0, 0), []) == ""
    assert unusual_drop(figures(0, 0), [figures(0, 0)]) == ""
