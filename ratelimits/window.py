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
    """Counts by sub-bucket number, oldest first; none is zero. ``width`` in microseconds.

    ``newest`` is the latest sub-bucket that it was brought to, which may hold nothing.
    """

    width: int
    counts: tuple[tuple[int, int], ...] = ()
    newest: int = 0

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)


@dataclass(frozen=True, slots=True)
class Look:
    """A ring brought to ``now``: ``wait`` is 0 where the request fits, else microseconds until it would.

    ``resets_in`` microseconds until the oldest sub-bucket leaves and more becomes available, this request's
    own where there is no other.
    """

    ring: Ring
    bucket: int
    wait: int
    resets_in: int

    @property
    def fits(self) -> bool:
        return self.wait == 0

    def count(self, cost: int = 1) -> Ring:
        """The ring after this request was let through."""
        counts = self.ring.counts
        if counts and counts[-1][0] == self.bucket:
            return Ring(self.ring.width, (*counts[:-1], (self.bucket, counts[-1][1] + cost)), self.bucket)
        return Ring(self.ring.width, (*counts, (self.bucket, cost)), self.bucket)


def look(ring: Ring | None, *, limit: int, width: int, now: int, cost: int = 1) -> Look:
    """Bring a ring to ``now`` (microseconds) and say whether ``cost`` fits under ``limit``."""
    bucket = now // width
    ring = Ring(width) if ring is None else _move(ring, width=width, now=now, bucket=bucket)
    bucket = max(bucket, ring.newest)  # where the clock went back a little, the newest sub-bucket goes on counting
    excess = ring.total + cost - limit
    resets_in = ((ring.counts[0][0] if ring.counts else bucket) + SLOTS) * width - now
    if excess <= 0:
        return Look(ring, bucket, 0, resets_in)
    last = bucket
    for number, count in ring.counts:
        excess -= count
        if excess <= 0:
            last = number
            break
    return Look(ring, bucket, (last + SLOTS) * width - now, resets_in)


def _move(ring: Ring, *, width: int, now: int, bucket: int) -> Ring:
    """Drop what has left the window; carry all that still counts into the newest sub-bucket after an
    edited width or a clock that jumped back."""
    live_from = now // ring.width - SUB_BUCKETS
    live = tuple((number, count) for number, count in ring.counts if number >= live_from)
    if ring.width == width and ring.newest - bucket < SLOTS:
        return Ring(width, live, max(ring.newest, bucket))
    total = sum(count for _, count in live)
    return Ring(width, ((bucket, total),) if total else (), bucket)
