"""How many requests one process may have in hand, and how the classes of roles share them. Pure.

A controller is told ten times a second what was seen and answers with a bound. All of them can be chosen in the
admin; ``benchmarks/shedding.py`` compares them on the real server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

from .policy import SheddingPolicy

#: Below this nothing would be learned: one request in hand, and one to see whether it goes better now.
LEAST = 2.0
#: Multiplicative decrease, additive increase: the factors of the tried prototype.
CUT, RAISE = 0.85, 0.25
#: Steps (tenths of a second) that "too much" must last before it is more than a crowd at the door.
STEPS = 3
#: A house is full above this share of its threads: between two requests a thread is free for a moment.
FULL_SHARE = 0.92
#: What is asked for must fall below this share of the threads before a full house counts as over.
ROOM_SHARE = 0.85
#: The top class may hold this share of the threads, however far the bound is cut.
TOP_SHARE = 0.75
#: Lag counts while this share of the threads is in use: otherwise it is somebody else who keeps the machine busy.
BUSY_SHARE = 0.75
#: Where requests compute, the bound is cut as far as this share of the threads. On two cores at 2.5 times the
#: capacity a quarter kept 75 % of it and half only 32 %: computing threads keep the refusals from the interpreter.
FLOOR_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened in one step. Times in seconds.

    ``lag``       90th percentile of how late a sleeping thread woke
    ``wait``      90th percentile of the wait before the application, None where no proxy says
    ``mean``      requests in hand, averaged over the step;  ``most`` the highest number of them
    ``arrived``   requests per second that came, refused ones included
    ``cpu``       mean CPU time of an answered request, 0 where it cannot be told (async)
    ``service``   mean time to answer, ``slow`` its 90th percentile, 0 where nothing was answered
    ``top``, ``middle``  requests of these classes in hand, averaged
    """

    lag: float = 0.0
    wait: float | None = None
    mean: float = 0.0
    most: int = 0
    arrived: float = 0.0
    service: float = 0.0
    cpu: float = 0.0
    slow: float = 0.0
    top: float = 0.0
    middle: float = 0.0


@dataclass(frozen=True, slots=True)
class Bound:
    """At most ``limit`` requests in hand; ``pressed`` says that the classes are held to their shares."""

    limit: float
    pressed: bool


@dataclass(frozen=True, slots=True)
class Caps:
    """How many may be in hand: of the top class, of all below it together, and of the low classes."""

    top: float
    below: float
    low: float
    total: float


class Controls(Protocol):
    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound: ...


def caps(bound: Bound, seen: Seen, policy: SheddingPolicy, most: float) -> Caps:
    """The classes' shares of a bound.

    The top class may fill all of it and more, whatever the others hold: it is refused only where it is too much
    by itself. The others are held to their shares while
    classes above them want theirs, and may borrow what those leave, with one place kept free for the next.
    Everybody may have at least one request in hand: a class that is shut out for ever learns nothing.
    """
    if not bound.pressed:
        return Caps(bound.limit, bound.limit, bound.limit, bound.limit)
    limit = bound.limit
    left_by_top = limit - 1 - seen.top
    left_by_both = left_by_top - seen.middle
    # a part of a place is a place: with too few in hand the interpreter idles between two callers
    below = max(ceil(limit * policy.middle_share_percent / 100), left_by_top)
    low = max(ceil(limit * policy.low_share_percent / 100), left_by_both)
    return Caps(max(limit, TOP_SHARE * most), below, min(low, below), limit)


@dataclass(slots=True)
class PlainBound:
    """As many as there are threads, always shared by class."""

    most: float

    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound:
        return Bound(self.most, pressed=True)


@dataclass(slots=True)
class _Steered:
    """Cut while something is too late, raised again while it is not, held while the bound is hardly used."""

    most: float
    limit: float = field(init=False)

    def __post_init__(self) -> None:
        self.limit = self.most

    def late(self, seen: Seen, policy: SheddingPolicy) -> bool:
        raise NotImplementedError

    def steer(self, seen: Seen, policy: SheddingPolicy) -> None:
        if self.late(seen, policy):
            if seen.most * 2 >= self.limit:
                self.limit = max(LEAST, self.limit * CUT)
        else:
            self.limit = min(self.most, self.limit + RAISE)

    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound:
        self.steer(seen, policy)
        return Bound(self.limit, pressed=True)


class DispatchLag(_Steered):
    """By how late a sleeping thread wakes: what CPU-bound views do to each other."""

    def late(self, seen: Seen, policy: SheddingPolicy) -> bool:
        return seen.lag * 1000 > policy.lag_ms


class QueueWait(_Steered):
    """By how long requests waited before they reached the application, where a trusted proxy says so."""

    def late(self, seen: Seen, policy: SheddingPolicy) -> bool:
        return seen.wait is not None and seen.wait * 1000 > policy.queue_wait_ms


@dataclass(slots=True)
class Gradient2:
    """Netflix's Gradient2: the limit follows the ratio of usual to present time to answer, with failsafe-go's guards.

    Held while less than half of it is used, and never above five times what was used of late.
    """

    most: float
    limit: float = field(init=False)
    usual: float = 0.0
    busiest: float = 0.0

    TOLERANCE, SMOOTHING, LONG = 1.5, 0.2, 0.01

    def __post_init__(self) -> None:
        self.limit = self.most

    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound:
        self.busiest = max(seen.most, self.busiest * 0.99)
        if seen.slow > 0:
            self.usual = seen.slow if self.usual == 0 else self.usual + self.LONG * (seen.slow - self.usual)
            if self.usual > 2 * seen.slow:
                self.usual *= 0.95  # after a long overload: come down sooner
            if seen.most * 2 >= self.limit:
                gradient = max(0.5, min(1.0, self.TOLERANCE * self.usual / seen.slow))
                wanted = self.limit * gradient + self.limit**0.5
                self.limit += self.SMOOTHING * (wanted - self.limit)
        self.limit = max(LEAST, min(self.limit, self.most, max(LEAST, 5 * self.busiest)))
        return Bound(self.limit, pressed=True)


@dataclass(slots=True)
class Adaptive(_Steered):
    """Says first that there is too much, then how much less is better; the classes share only meanwhile.

    Too much of anything shows in one of three ways for some tenths of a second: no thread is ever free; where
    requests compute, a sleeping thread wakes late; a proxy says that requests wait. Then the low classes
    make room. Where requests compute, fewer of them are kept in hand until a sleeping thread wakes in time again,
    for they only delay each other and the refusals; a quarter of the threads stays in use, because with fewer the
    interpreter idles between two callers. Where they wait for others, all threads but one stay in use. It is over
    when all that is asked for would fit again.
    """

    standing: bool = False
    _too_much_steps: int = 0
    _asked: float = 0.0
    _asked_cpu: float = 0.0

    def late(self, seen: Seen, policy: SheddingPolicy) -> bool:
        return seen.lag * 1000 > policy.lag_ms

    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound:
        # Little's law: what would be in hand if everybody who came were served, as quickly as those who were
        self._asked += 0.3 * (max(seen.arrived * seen.service, seen.mean) - self._asked)
        self._asked_cpu += 0.3 * (seen.arrived * seen.cpu - self._asked_cpu)
        waits = seen.wait is not None and seen.wait * 1000 > policy.queue_wait_ms
        # the highest number, not the mean: threads that wait for the interpreter wait outside as well
        stuck = self.late(seen, policy) and seen.most >= BUSY_SHARE * self.most
        full = seen.mean >= FULL_SHARE * self.most
        self._too_much_steps = min(self._too_much_steps + 1, STEPS) if full or waits or stuck else 0
        if self._too_much_steps >= STEPS:
            if not self.standing and stuck:
                self.limit = self.most * FLOOR_SHARE  # the queue grows with every step: no time to find out slowly
            self.standing = True
        elif self._asked < ROOM_SHARE * self.most and self._asked_cpu < ROOM_SHARE and not (waits or stuck):
            self.standing, self.limit = False, self.most
        if not self.standing:
            return Bound(self.most, pressed=False)
        self.steer(seen, policy)
        self.limit = max(self.limit, self.most * FLOOR_SHARE)
        # one thread stays free to refuse: with all of them waiting the queue outside would never get shorter
        return Bound(max(LEAST, min(self.limit, self.most - 1)), pressed=True)


@dataclass(slots=True)
class Off:
    """No bound: only the fixed limits hold."""

    most: float

    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound:
        return Bound(float("inf"), pressed=False)


KINDS: dict[str, type[Controls]] = {
    "adaptive": Adaptive,
    "bound": PlainBound,
    "lag": DispatchLag,
    "wait": QueueWait,
    "gradient2": Gradient2,
    "off": Off,
}


def make(kind: str, most: float) -> Controls:
    """A controller in its first state: nothing has been seen, all threads may be used."""
    return KINDS[kind](most)  # type: ignore[call-arg]  # a protocol says nothing of how it is made
