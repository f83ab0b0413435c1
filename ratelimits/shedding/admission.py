"""The requests that this process has in hand, and whether it takes another one. One per process."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from controlplane.kernel import clock
from controlplane.monitoring.metrics import set_admission_limit

from . import controller
from .controller import Caps, Seen
from .policy import Rank, SheddingPolicy

#: How long the watching thread sleeps, and how often it looks at what it has seen.
SLEEP_SECONDS = 0.005
STEP_SECONDS = 0.1
#: Lags that are looked at together: those of the last three steps.
LAG_WINDOW_SECONDS = 0.3
IDLE_SLEEP_SECONDS = 0.05
MOST_TIMES_KEPT = 512


class Admission:
    """Counts what enters and leaves, and steers its own bound.

    ``threads`` is how many requests this process can have in hand at all; ``connections`` tells how many the whole
    service has open. ``enter`` costs about a microsecond.
    """

    def __init__(
        self,
        threads: int,
        policy: Callable[[], SheddingPolicy],
        monotonic: Callable[[], float] = clock.monotonic,
        connections: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.threads = threads
        self._policy, self._monotonic, self._connections = policy, monotonic, connections
        self._lock = threading.Lock()
        self._in_hand = [0, 0, 0]
        # the integral of requests in hand over time, since the step began
        self._area = 0.0
        self._changed_at = self._stepped_at = monotonic()
        self._most = self._arrived = 0
        self._cpu = 0.0
        self._times: deque[float] = deque(maxlen=MOST_TIMES_KEPT)
        self._waits: deque[float] = deque(maxlen=MOST_TIMES_KEPT)
        self._lags: deque[tuple[float, float]] = deque()
        self._kind = ""
        self._controls: controller.Controls = controller.make("off", threads)
        no_bound = float("inf")
        self.caps = Caps(no_bound, no_bound, no_bound, no_bound)
        self.last_seen = Seen()
        self._pid = 0

    @property
    def in_hand(self) -> int:
        return sum(self._in_hand)

    def enter(self, rank: Rank, wait_seconds: float | None = None) -> bool:
        """Take the request in hand, or refuse it (False). Who was let in must ``leave``."""
        if self._pid != os.getpid():
            self._start()
        with self._lock:
            self._arrived += 1
            if wait_seconds is not None:
                self._waits.append(wait_seconds)
            if not self._has_room(rank):
                return False
            self._account()
            self._in_hand[rank] += 1
            self._most = max(self._most, self.in_hand)
            return True

    def _has_room(self, rank: Rank) -> bool:
        low, middle, top = self._in_hand
        caps = self.caps
        if rank is Rank.TOP:
            return top + 1 <= caps.top
        in_hand = low + middle + top
        if in_hand + 2 <= caps.total:
            return True  # one more place stays free for the classes above: what they leave is lent
        if in_hand + 1 > caps.total or low + middle + 1 > caps.below:
            return False
        return rank is Rank.MIDDLE or low + 1 <= caps.low

    def leave(self, rank: Rank, entered_at: float, cpu_seconds: float = 0.0) -> None:
        with self._lock:
            self._cpu += cpu_seconds
            self._account()
            self._in_hand[rank] -= 1
            self._times.append(self._changed_at - entered_at)

    def _account(self) -> None:
        now = self._monotonic()
        passed, self._changed_at = now - self._changed_at, now
        self._area += passed * self.in_hand

    # --- the watching thread ---------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            if self._pid:  # a fork: what the parent had in hand is the parent's
                self._in_hand = [0, 0, 0]
            self._pid = os.getpid()
        threading.Thread(target=self._watch, name="shedding", daemon=True).start()

    def _watch(self) -> None:
        while True:
            if self.in_hand or self._arrived:
                before = time.perf_counter()
                time.sleep(SLEEP_SECONDS)
                self.woke_late(time.perf_counter() - before - SLEEP_SECONDS)
            else:
                time.sleep(IDLE_SLEEP_SECONDS)
            if self._monotonic() - self._stepped_at >= STEP_SECONDS:
                self.step()

    def woke_late(self, seconds: float) -> None:
        self._lags.append((self._monotonic(), seconds))

    def step(self) -> None:
        """Look at what was seen since the last step, and set the bound by it."""
        policy, connections = self._policy(), self._connections()
        with self._lock:
            seen = self._seen(connections)
        if policy.controller != self._kind:
            self._kind, self._controls = policy.controller, controller.make(policy.controller, self.threads)
        self.last_seen = seen
        self.caps = controller.caps(self._controls.step(seen, policy), policy, self.threads)
        set_admission_limit(self.caps.total)

    def _seen(self, connections: int | None) -> Seen:
        self._account()
        now = self._changed_at
        passed = max(now - self._stepped_at, 1e-6)
        while self._lags and self._lags[0][0] < now - LAG_WINDOW_SECONDS:
            self._lags.popleft()
        seen = Seen(
            lag=_p90([lag for _, lag in self._lags]),
            wait=_p90(self._waits) if self._waits else None,
            mean=self._area / passed,
            most=self._most,
            arrived=self._arrived / passed,
            service=sum(self._times) / len(self._times) if self._times else self.last_seen.service,
            cpu=self._cpu / len(self._times) if self._times else self.last_seen.cpu,
            slow=_p90(self._times),
            connections=connections,
        )
        self._stepped_at, self._area, self._arrived, self._most = now, 0.0, 0, self.in_hand
        self._cpu = 0.0
        self._times.clear()
        self._waits.clear()
        return seen


def _p90(values: deque[float] | list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))] if ordered else 0.0
