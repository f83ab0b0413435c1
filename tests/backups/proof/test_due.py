"""Which proofs are due: every set daily, every byte within the period, the newest set read weekly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from backups.proof.due import CHECK_EVERY, Due, PartFacts, SetFacts, due_proofs, sample

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
GIB = 2**30


def part(number: int = 1, *, size: int = GIB, age: timedelta = timedelta(0)) -> PartFacts:
    return PartFacts("files", f"part-{number:05d}.age", size, NOW - age)


def a_set(key: int = 1, *, age: timedelta = DAY, **changes: object) -> SetFacts:
    found = SetFacts(key=key, committed_at=NOW - age, parts=(part(age=age),))
    return replace(found, **changes)  # type: ignore[arg-type]


def due(*sets: SetFacts, at: datetime = NOW, days: int = 30) -> list[tuple[int, int]]:
    return [(one.key, one.level) for one in due_proofs(sets, at, verify_full_days=days)]


def test_a_new_set_is_read_to_its_end() -> None:
    assert due(a_set()) == [(1, 2)]


def test_the_newest_is_read_weekly_and_the_others_are_checked_daily() -> None:
    read = {"read_at": NOW - 6 * DAY, "checked_at": NOW - DAY, "tried_at": NOW - DAY}
    assert due(a_set(1, age=3 * DAY, **read), a_set(2)) == [(1, 0), (2, 0)]
    read["read_at"] = NOW - 7 * DAY
    assert due(a_set(1, age=3 * DAY, **read), a_set(2)) == [(1, 0), (2, 2)]


def test_a_set_that_was_checked_today_is_left_alone() -> None:
    checked = {"checked_at": NOW - timedelta(hours=20), "tried_at": NOW - timedelta(hours=20)}
    assert due(a_set(1, age=40 * DAY, **checked), a_set(2, read_at=NOW - DAY, **checked)) == []


def test_what_could_not_be_learned_is_asked_again_after_an_hour() -> None:
    tried = a_set(read_at=NOW - DAY, checked_at=NOW - 2 * DAY, tried_at=NOW - timedelta(minutes=50))
    assert due(tried) == []
    assert due(tried, at=NOW + timedelta(minutes=10)) == [(1, 0)]


def test_a_reading_that_was_not_possible_does_not_stand_in_the_way_of_the_daily_check() -> None:
    at = NOW - timedelta(minutes=5)
    assert due(a_set(read_tried_at=at, tried_at=at)) == []
    at = NOW - timedelta(hours=2)
    assert due(a_set(read_tried_at=at, tried_at=at)) == [(1, 0)]
    at = NOW - timedelta(hours=24)
    assert due(a_set(read_tried_at=at, tried_at=at)) == [(1, 2)]


def test_nothing_is_asked_of_a_set_that_is_damaged_or_being_proven() -> None:
    assert due(a_set(damaged=True)) == []
    assert due(a_set(going=True)) == []


def test_a_set_of_some_sources_does_not_stand_for_the_plan() -> None:
    safety = a_set(2, age=timedelta(hours=1), partial=True, read_at=NOW, checked_at=NOW, tried_at=NOW)
    assert due(a_set(1), safety) == [(1, 2)]
    assert due(a_set(1, partial=True)) == [(1, 0)]


def test_a_plan_without_sets_has_nothing_due() -> None:
    assert due() == []


def test_one_large_part_is_read_once_in_the_period_and_not_every_day() -> None:
    assert sample([part(age=20 * DAY)], NOW, verify_full_days=30) == []
    assert len(sample([part(age=29 * DAY)], NOW, verify_full_days=30)) == 1


def test_the_part_that_was_not_seen_for_longest_comes_first() -> None:
    parts = [part(n, age=timedelta(days=n)) for n in range(1, 11)]
    taken = sample(parts, NOW + 2 * DAY, verify_full_days=30)
    assert [one.name for one in taken] == ["part-00010.age"]


def test_everything_daily_where_the_period_is_a_day() -> None:
    assert len(sample([part(n, age=timedelta(hours=1)) for n in range(5)], NOW, verify_full_days=1)) == 5


def test_no_parts_no_sample() -> None:
    assert sample([], NOW, verify_full_days=30) == []


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4 * GIB), min_size=1, max_size=40),
    days=st.integers(1, 40),
    jitter=st.lists(st.integers(0, 45), min_size=1, max_size=10),
)
def test_every_part_is_seen_within_the_period_and_the_work_is_spread(
    sizes: list[int], days: int, jitter: list[int]
) -> None:
    """Two periods and more of daily runs that are up to 45 minutes late."""
    seen = dict.fromkeys(range(len(sizes)), NOW)
    worst, read = timedelta(0), []
    for day in range(1, 2 * days + 3):
        at = NOW + day * DAY + timedelta(minutes=jitter[day % len(jitter)])
        parts = [PartFacts("files", f"{n:05d}", size, seen[n]) for n, size in enumerate(sizes)]
        worst = max(worst, *(at - when for when in seen.values()))
        taken = sample(parts, at, verify_full_days=days)
        read.append(sum(one.size for one in taken))
        for one in taken:
            seen[int(one.name)] = at
    assert worst <= days * DAY + timedelta(hours=1)
    # No more than is needed: each part at most once per period, give or take the day that it is early.
    assert sum(read) <= sum(sizes) * (len(read) / max(days - 1, 1) + 1)


def test_a_check_that_ran_a_little_late_does_not_shift_the_next_day() -> None:
    late = NOW - CHECK_EVERY + timedelta(minutes=20)
    assert due(a_set(read_at=NOW - DAY, checked_at=late, tried_at=late)) == [(1, 0)]


def test_due_is_what_request_makes_of_it() -> None:
    assert due_proofs([a_set()], NOW, verify_full_days=30) == [Due(1, 2)]
