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
#: Steps (tenths of a second) that "too much" must last before it is more than a crowd at the door. At 2.5 times the
#: capacity half a second leaves a queue of 0.75 s: it is gone before the callers, who wait a second, are.
STEPS = 5
#: And where nothing but a full house says so: callers come by chance, and at three quarters of the capacity all of
#: eight threads are in use for half a second once or twice a minute, with a queue of a tenth of a second that goes by
#: itself. For 0.7 s they hardly ever are (simulated: of 40 runs of 15 s one went over 0.2 % refused, before 12 did).
FULL_STEPS = 7
#: A house that is crowded for so many steps although the low classes make room: the top class as well leaves one thread
#: free for as many steps.
TOP_STEPS, CROWDED_SHARE = 8, 0.92
#: A house is full above this share of its threads: between two requests a thread is free for a moment.
FULL_SHARE = 0.95
#: And where it is seen that nobody stands outside. Not never: several callers may share a connection.
CALM_FULL_STEPS = 20
#: Where so many connections per thread are open beyond those of quiet moments, callers stand outside: then a house is
#: full that is merely busy, and after ``STEPS``. Eight wait 0.4 s for a view that takes 50 ms. On a machine that does
#: other work as well, all threads may not be in use for 95 % of the time however long the queue is.
OUTSIDE_PER_THREAD = 8
#: Where so few callers per thread stand outside, the thread that refuses serves as well in more of the steps; where
#: more do, in fewer. A thread that has answered meets those who are refused before its next request, and meanwhile a
#: place is empty: seven of eight threads served 84 % of what eight did.
SHORT_PER_THREAD = 3
LEND, MOST_LENT = 0.05, 0.4
#: A queue that stays for so many steps although the low classes make room: more threads must be free to refuse.
QUEUE_STEPS = 12
#: Quiet moments have this share of the threads in use at most. What is usual falls at once and rises in five seconds.
QUIET_SHARE, USUAL_RISE = 0.5, 0.02
#: What is asked for must fall below this share of the threads before a full house counts as over.
ROOM_SHARE = 0.85
#: The top class may hold this share of the threads, however far the bound is cut: of eight all but one, which refuses.
#: With six, one in forty of its callers was refused at 2.5 times the capacity, merely as they came in crowds.
TOP_SHARE = 0.875
#: Lag counts while this share of the threads is in use, or callers stand outside: otherwise it is somebody else who
#: keeps the machine busy.
BUSY_SHARE = 0.6
#: An interpreter that computes for this share of the time is full, where a sleeping thread wakes late by this share of
#: the lag as well; it is over below ``ROOM_CPU``.
SATURATED, WAITING_SHARE, ROOM_CPU = 0.8, 0.6, 0.75
#: An interpreter that computes for this share of the time is busy, however few requests are in hand: threads that wait
#: for it outside are not counted yet. With 280 callers outside, five of eight threads were in use on average.
COMPUTES = 0.6
#: A bound that was cut is raised only below this share of the lag that cuts it. In between refusals still take their
#: time, and a queue grew outside that nothing here shows: a process ended at its full bound.
CALM_SHARE = 0.4
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
    ``connections``  that the whole service has open, None where nobody can tell
    """

    lag: float = 0.0
    wait: float | None = None
    mean: float = 0.0
    most: int = 0
    arrived: float = 0.0
    service: float = 0.0
    cpu: float = 0.0
    slow: float = 0.0
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """At most ``limit`` requests in hand; ``pressed`` says that the classes are held to their shares.

    ``top`` is what the top class may hold, where that is more than the bound and its guaranteed share.
    """

    limit: float
    pressed: bool
    top: float = 0.0


@dataclass(frozen=True, slots=True)
class Caps:
    """How many may be in hand: of the top class, of all below it together, and of the low classes."""

    top: float
    below: float
    low: float
    total: float


class Controls(Protocol):
    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound: ...


def caps(bound: Bound, policy: SheddingPolicy, most: float) -> Caps:
    """The classes' shares of a bound.

    The top class may fill all of it and more, whatever the others hold: it is refused only where it is too much
    by itself. The others are held to their shares; beyond them they are lent what nobody uses, as long as one
    place stays free for the classes above. Everybody may have at least one request in hand: a class that is shut
    out for ever learns nothing.
    """
    if not bound.pressed:
        return Caps(bound.limit, bound.limit, bound.limit, bound.limit)
    # a part of a place is a place: with too few in hand the interpreter idles between two callers
    below = ceil(bound.limit * policy.middle_share_percent / 100)
    low = ceil(bound.limit * policy.low_share_percent / 100)
    return Caps(max(bound.limit, bound.top, TOP_SHARE * most), below, min(low, below), bound.limit)


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
    interpreter idles between two callers. Where they wait for others, all threads but one stay in use; that one as
    well in as many steps as leave the queue outside short; and fewer where it cannot refuse as fast as callers come. It
    is over when all that is asked for would fit again.
    """

    standing: bool = False
    _too_much_steps: int = 0
    _crowded_steps: int = 0
    _crowded: bool = False
    _asked: float = 0.0
    _asked_cpu: float = 0.0
    _usual_connections: float = 0.0
    _queue_steps: int = 0
    _lent: float = 0.0
    _owed: float = 0.0

    def late(self, seen: Seen, policy: SheddingPolicy) -> bool:
        return seen.lag * 1000 > policy.lag_ms

    def steer(self, seen: Seen, policy: SheddingPolicy) -> None:
        # a queue that stays: the threads that are left cannot refuse as fast as callers come
        if self.late(seen, policy) or self._queue_steps >= QUEUE_STEPS:
            self.limit = max(self.most * FLOOR_SHARE, self.limit * CUT)
        elif seen.lag * 1000 < policy.lag_ms * CALM_SHARE:
            self.limit = min(self.most, self.limit + RAISE)

    def _outside(self, seen: Seen) -> float | None:
        """How many callers stand outside: connections beyond those of the moments in which threads were free.

        Connections that callers merely keep are there in those moments, too.
        """
        if seen.connections is None:
            return None
        more = seen.connections - self._usual_connections
        if more < 0:
            self._usual_connections = seen.connections
        elif seen.mean < QUIET_SHARE * self.most and not self.standing:
            self._usual_connections += USUAL_RISE * more
        return more

    def _all_serve(self, outside: float | None) -> bool:
        """Whether in this step the thread that refuses serves, too: a share of the steps, spread evenly."""
        short = outside is not None and outside < SHORT_PER_THREAD * self.most
        self._lent = min(MOST_LENT, self._lent + LEND) if short else 0.0
        self._owed += self._lent
        if self._owed < 1:
            return False
        self._owed -= 1
        return True

    def _needed(self, seen: Seen, *, certain: bool) -> int:
        """Steps of too much that make an overload, by what shows now."""
        if certain:
            return STEPS
        one_each = seen.connections is not None and seen.connections >= seen.mean
        return CALM_FULL_STEPS if one_each else FULL_STEPS

    def step(self, seen: Seen, policy: SheddingPolicy) -> Bound:
        # Little's law: what would be in hand if everybody who came were served, as quickly as those who were
        self._asked += 0.3 * (max(seen.arrived * seen.service, seen.mean) - self._asked)
        self._asked_cpu += 0.3 * (seen.arrived * seen.cpu - self._asked_cpu)
        waits = seen.wait is not None and seen.wait * 1000 > policy.queue_wait_ms
        outside = self._outside(seen)
        queue = outside is not None and outside >= OUTSIDE_PER_THREAD * self.most
        stuck = self.late(seen, policy) and (queue or seen.mean >= BUSY_SHARE * self.most)
        # threads that wait for the interpreter outside, before anybody counts them, are not in hand
        stuck = stuck or (self._asked_cpu >= SATURATED and seen.lag * 1000 > policy.lag_ms * WAITING_SHARE)
        computes = self._asked_cpu >= COMPUTES
        busy = max(seen.mean, self._asked) >= BUSY_SHARE * self.most or computes
        full = seen.mean >= FULL_SHARE * self.most or (queue and busy)
        if full or waits or stuck:
            # twice as late is twice as clear
            weight = 2 if stuck and seen.lag * 1000 > 2 * policy.lag_ms else 1
            self._too_much_steps = min(self._too_much_steps + weight, CALM_FULL_STEPS)
        else:
            self._too_much_steps = max(self._too_much_steps - 2, 0)
        if self._too_much_steps >= self._needed(seen, certain=waits or stuck or queue):
            if not self.standing and (stuck or computes):
                self.limit = self.most * FLOOR_SHARE  # the queue grows with every step: no time to find out slowly
            self.standing = True
        elif self._asked < ROOM_SHARE * self.most and self._asked_cpu < ROOM_CPU and not (waits or stuck or queue):
            self.standing, self.limit = False, self.most
        if not self.standing:
            self._crowded_steps, self._crowded, self._queue_steps = 0, False, 0
            self._lent = self._owed = 0.0
            return Bound(self.most, pressed=False)
        self._queue_steps = self._queue_steps + 1 if queue else 0
        self.steer(seen, policy)
        # one thread stays free to refuse: with all of them waiting the queue outside would never get shorter
        free = self.most if self._all_serve(outside) else self.most - 1
        crowded = seen.mean >= CROWDED_SHARE * self.most
        self._crowded_steps = min(self._crowded_steps + 1, TOP_STEPS) if crowded else max(self._crowded_steps - 1, 0)
        self._crowded = self._crowded_steps >= TOP_STEPS or (self._crowded and self._crowded_steps > 0)
        # when the low ones in the queue are refused, all of the top class that stood among them comes at once
        return Bound(max(LEAST, min(self.limit, free)), pressed=True, top=0.0 if self._crowded else self.most)


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
