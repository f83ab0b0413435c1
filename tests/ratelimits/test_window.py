"""The sliding window against an exact log of what was let through."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimits.window import SLOTS, SUB_BUCKETS, Ring, bucket_width, look

LENGTHS = st.sampled_from([1, 1, 2, 3, 7, 59, 60, 61, 900, 3601, 86_400, 2_678_400])
EPOCH = 1_780_000_000_000_000  # a time in 2026, in microseconds


@dataclass
class Log:
    """The oracle: every request that was let through, with its time."""

    entries: list[tuple[int, int]] = field(default_factory=list)

    def within(self, now: int, window: int) -> int:
        """How much the window that ends at ``now`` holds; both of its ends count."""
        return sum(cost for at, cost in self.entries if now - window <= at <= now)

    def wait(self, now: int, window: int, limit: int, cost: int) -> int:
        """Until when an exact log would let this request wait."""
        excess = self.within(now, window) + cost - limit
        if excess <= 0:
            return 0
        for at, entry in self.entries:
            if at >= now - window:
                excess -= entry
                if excess <= 0:
                    return at + window + 1 - now
        raise AssertionError("never")


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    seconds = draw(LENGTHS)
    limit = draw(st.integers(1, 40))
    window = seconds * 1_000_000
    gap = st.one_of(
        st.integers(0, 5),
        st.integers(0, window // max(1, limit)),
        st.integers(window // 70, window // 50),
        st.integers(window - 3, window + window // 50),
        st.integers(0, 3 * window),
    )
    return seconds, limit, draw(st.lists(st.tuples(gap, st.integers(1, min(4, limit))), min_size=5, max_size=120))


@given(arrivals())
@settings(max_examples=250, deadline=None)
def test_no_window_ever_holds_more_than_the_limit_and_nobody_waits_a_sub_bucket_too_long(
    case: tuple[int, int, list[tuple[int, int]]],
) -> None:
    seconds, limit, gaps = case
    window, width = seconds * 1_000_000, bucket_width(seconds)
    ring, log, now = None, Log(), EPOCH
    for gap, cost in gaps:
        now += gap
        seen = look(ring, limit=limit, width=width, now=now, cost=cost)
        exact = log.wait(now, window, limit, cost)
        if seen.fits:
            assert exact == 0
            log.entries.append((now, cost))
            ring = seen.count(cost)
            assert log.within(now, window) <= limit
        else:
            ring = seen.ring
            # one sub-bucket, and what rounding the width up adds over the whole ring
            assert seen.wait <= exact + width + (SUB_BUCKETS * width - window)


@given(arrivals())
@settings(max_examples=150, deadline=None)
def test_waiting_exactly_as_told_is_always_enough_and_one_sub_bucket_less_than_told_is_not_promised(
    case: tuple[int, int, list[tuple[int, int]]],
) -> None:
    seconds, limit, gaps = case
    width = bucket_width(seconds)
    ring, now = None, EPOCH
    denied = 0
    for gap, cost in gaps:
        now += gap
        seen = look(ring, limit=limit, width=width, now=now, cost=cost)
        if not seen.fits:
            denied += 1
            just_before = look(seen.ring, limit=limit, width=width, now=now + seen.wait - 1, cost=cost)
            assert not just_before.fits
            assert just_before.wait == 1
            now += seen.wait
            seen = look(seen.ring, limit=limit, width=width, now=now, cost=cost)
            assert seen.fits
        ring = seen.count(cost)


@given(arrivals(), st.lists(st.integers(0, 10**12), min_size=3, max_size=3))
@settings(max_examples=150, deadline=None)
def test_a_clock_that_goes_back_never_lets_more_than_the_limit_through_at_once(
    case: tuple[int, int, list[tuple[int, int]]], jumps: list[int]
) -> None:
    seconds, limit, gaps = case
    width = bucket_width(seconds)
    ring, now, jumped = None, EPOCH, list(jumps)
    for number, (gap, cost) in enumerate(gaps):
        back = number % 11 == 10 and jumped
        before = ring.total if ring else 0
        now += -jumped.pop() if back else gap
        seen = look(ring, limit=limit, width=width, now=now, cost=cost)
        if back:
            assert seen.ring.total == before  # nothing is forgiven by a clock that goes back
        ring = seen.count(cost) if seen.fits else seen.ring
        assert ring.total <= limit
        assert seen.wait <= (SUB_BUCKETS + SLOTS) * width  # and nobody waits for the lost time


@given(arrivals(), st.lists(st.tuples(LENGTHS, st.integers(1, 40)), min_size=1, max_size=5), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_an_edited_limit_and_window_never_let_more_than_the_new_limit_through_at_once(
    case: tuple[int, int, list[tuple[int, int]]], edits: list[tuple[int, int]], every: int
) -> None:
    seconds, limit, gaps = case
    ring, now = None, EPOCH
    for number, (gap, _) in enumerate(gaps):
        if number % every == every - 1 and edits:
            seconds, limit = edits.pop()
        now += gap
        width = bucket_width(seconds)
        before = ring
        seen = look(ring, limit=limit, width=width, now=now)
        if before is not None and before.width != width:
            # what still counted by the old window counts on, as if it had come just now
            live = sum(count for bucket, count in before.counts if bucket >= now // before.width - SUB_BUCKETS)
            assert seen.ring.total == live
            assert live == 0 or seen.ring.counts == ((now // width, live),)
        if seen.fits:
            ring = seen.count()
            assert ring.total <= limit
        else:
            ring = seen.ring


def test_sixty_sub_buckets_cover_the_window_even_where_it_cannot_be_divided() -> None:
    assert bucket_width(900) == 15_000_000
    assert bucket_width(1) == 16_667
    assert bucket_width(61) == 1_016_667
    assert all(bucket_width(n) * SUB_BUCKETS >= n * 1_000_000 for n in range(1, 5000))


def test_the_edge_of_a_window_lets_nobody_through_twice() -> None:
    # 50 in the last moment of one window and 50 in the first of the next: what a fixed window lets through
    width, ring, now = bucket_width(60), None, EPOCH // 60_000_000 * 60_000_000 + 59_999_999
    for _ in range(50):
        ring = look(ring, limit=50, width=width, now=now).count()
    assert not look(ring, limit=50, width=width, now=now + 1).fits
    assert not look(ring, limit=50, width=width, now=now + 59_999_999).fits
    assert look(ring, limit=50, width=width, now=now + 60_000_001).fits


def test_a_ring_never_grows_beyond_its_slots() -> None:
    width, ring = bucket_width(60), None
    for step in range(1000):
        ring = look(ring, limit=10_000, width=width, now=EPOCH + step * 500_000).count()
    assert ring is not None
    assert len(ring.counts) <= SLOTS
    assert ring.total <= 2 * SLOTS


def test_more_becomes_available_when_the_oldest_sub_bucket_leaves() -> None:
    width = bucket_width(60)
    start = EPOCH // width * width
    seen = look(None, limit=5, width=width, now=start + 10)
    assert seen.resets_in == SLOTS * width - 10  # this request's own
    later = look(Ring(width, ((start // width, 2),), start // width), limit=5, width=width, now=start + 20 * width)
    assert later.resets_in == (SLOTS - 20) * width
    assert later.fits
