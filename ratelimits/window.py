"""The sliding window of 61 sub-buckets, as a pure function of a ring and an explicit ``now``.

The same arithmetic as ``limiter/lua/decide.lua``, which a property test holds equal to it. Here it
serves the local fallback.

What it guarantees: in no stretch of ``window`` microseconds are more than ``limit`` let through, and
waiting for ``wait`` is always enough. What it does not: it may deny for up to one sub-bucket (a
sixtieth of the window) longer than an exact log would, because the oldest sub-bucket counts in full
until it has left the window altogether.
"""

from __future__ import annotations

from dataclasses import dataclass

SUB_BUCKETS = 60
SLOTS = SUB_BUCKETS + 1


def bucket_width(window_seconds: float) -> int:
    """Microseconds of one sub-bucket: rounded up, so that 60 of them cover the window."""
    return -(-round(window_seconds * 1_000_000) // SUB_BUCKETS)


@dataclass(frozen=True, slots=True)
class Ring:
    """Counts by sub-bucket number, oldest first; none is zero. ``width`` in microseconds."""

    width: int
    counts: tuple[tuple[int, int], ...] = ()

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)


@dataclass(frozen=True, slots=True)
class Look:
    """A ring brought to ``now``: ``wait`` is 0 where the request fits, else microseconds until it would."""

    ring: Ring
    bucket: int
    wait: int

    @property
    def fits(self) -> bool:
        return self.wait == 0

    def count(self, cost: int = 1) -> Ring:
        """The ring after this request was let through."""
        counts = self.ring.counts
        if counts and counts[-1][0] == self.bucket:
            return Ring(self.ring.width, (*counts[:-1], (self.bucket, counts[-1][1] + cost)))
        return Ring(self.ring.width, (*counts, (self.bucket, cost)))

    def resets_in(self, now: int) -> int:
        """Microseconds until the oldest sub-bucket leaves and more becomes available."""
        return (self.ring.counts[0][0] + SLOTS) * self.ring.width - now if self.ring.counts else 0


def look(ring: Ring | None, *, limit: int, width: int, now: int, cost: int = 1) -> Look:
    """Bring a ring to ``now`` (microseconds) and say whether ``cost`` fits under ``limit``."""
    bucket = now // width
    ring = Ring(width) if ring is None else _move(ring, width=width, now=now, bucket=bucket)
    if ring.counts and bucket < ring.counts[-1][0]:
        bucket = ring.counts[-1][0]  # the clock went back a little: the newest sub-bucket goes on counting
    excess = ring.total + cost - limit
    if excess <= 0:
        return Look(ring, bucket, 0)
    last = bucket
    for number, count in ring.counts:
        excess -= count
        if excess <= 0:
            last = number
            break
    return Look(ring, bucket, (last + SLOTS) * width - now)


def _move(ring: Ring, *, width: int, now: int, bucket: int) -> Ring:
    """Drop what has left the window; carry all that still counts into the newest sub-bucket after an
    edited width or a clock that jumped back."""
    live_from = now // ring.width - SUB_BUCKETS
    live = tuple((number, count) for number, count in ring.counts if number >= live_from)
    newest = live[-1][0] if live else bucket
    if ring.width == width and newest - bucket < SLOTS:
        return Ring(width, live)
    total = sum(count for _, count in live)
    return Ring(width, ((bucket, total),) if total else ())
