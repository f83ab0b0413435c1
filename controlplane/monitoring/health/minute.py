"""The traffic of the last minute, over all processes of this service.

A thread of each process reads the service's own counters every 5 s and keeps the readings of the last minute:
asking for the figures costs a subtraction. The counters are shared by the processes of a service (the files
in ``PROMETHEUS_MULTIPROC_DIR``), so it does not matter which process is asked.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from controlplane.kernel import clock
from controlplane.monitoring.parsing import Buckets, Exposition, difference, error_share, from_families, quantile

logger = structlog.get_logger(__name__)

PERIOD_SECONDS = 5.0
WINDOW_SECONDS = 60.0
#: Fewer requests than this say nothing about a 95th percentile.
LEAST_REQUESTS = 20

REQUESTS = "zantara_requests_total"
DURATIONS = "zantara_request_duration_seconds"
#: Supervisors and scrapers ask these all day and are answered at once: they would hide what callers wait for.
OWN_ROUTES = frozenset({"livez", "readyz", "startupz", "health", "metrics"})


@dataclass(frozen=True, slots=True)
class Traffic:
    """What callers saw in the last ``seconds``. Times in seconds, None with fewer than 20 requests."""

    seconds: float
    requests: float
    error_share: float | None
    p50_seconds: float | None
    p95_seconds: float | None

    @property
    def requests_per_second(self) -> float | None:
        return self.requests / self.seconds if self.seconds else None


NOTHING_SEEN = Traffic(0.0, 0.0, None, None, None)


def traffic(before: Exposition, after: Exposition, seconds: float) -> Traffic:
    """The callers' traffic between two readings, without supervisors' and scrapers' questions."""
    passed = difference(before, after, seconds)
    statuses: dict[str, float] = {}
    for (route, status), count in passed.by_all(REQUESTS, ("route", "status")).items():
        if not is_own(route):
            statuses[status] = statuses.get(status, 0.0) + count
    requests = sum(statuses.values())
    enough = requests >= LEAST_REQUESTS
    buckets = _callers_buckets(passed.by_all(f"{DURATIONS}_bucket", ("route", "le"))) if enough else ()
    return Traffic(seconds, requests, error_share(statuses), quantile(0.5, buckets), quantile(0.95, buckets))


def is_own(route: str) -> bool:
    """Whether this route belongs to supervisors and scrapers, not to callers."""
    return route.strip("/^$") in OWN_ROUTES


def _callers_buckets(counts: dict[tuple[str, ...], float]) -> Buckets:
    sums: dict[float, float] = {}
    for (route, bound), count in counts.items():
        if not is_own(route):
            sums[float(bound)] = sums.get(float(bound), 0.0) + count
    return tuple(sorted(sums.items()))


def read_own_counters() -> Exposition:
    """This service's request counters and durations, over all its processes."""
    from controlplane.monitoring.exposition import counted

    return from_families(counted(), only=(REQUESTS, DURATIONS))


class LastMinute:
    """Readings of the last minute, taken by one daemon thread per process that the first question starts."""

    def __init__(self, read: Callable[[], Exposition] = read_own_counters) -> None:
        self._read = read
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._readings: deque[tuple[float, Exposition]] = deque()
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """A forked process has neither the thread nor, perhaps, a lock that anybody will release."""
        self._forget()

    def start(self) -> None:
        """Watch from now on; more than once is fine."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="last-minute", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            self.take()
            pause.wait(PERIOD_SECONDS)

    def take(self) -> None:
        """Take one reading; a failure is logged and costs that reading only."""
        try:
            reading = self._read()
        except Exception:  # whatever is wrong with the counters, the service goes on and /health says so by null
            logger.warning("own_counters_not_read", exc_info=True)
            return
        now = clock.monotonic()
        with self._lock:
            while self._readings and self._readings[-1][0] >= now:
                self._readings.pop()  # of a clock that was set back since
            self._readings.append((now, reading))
            # the reading just before the window is where the window begins
            while len(self._readings) > 2 and self._readings[1][0] <= now - WINDOW_SECONDS:
                self._readings.popleft()

    def traffic(self) -> Traffic:
        """What the readings say; ``NOTHING_SEEN`` until there are two, or when the newest is too old."""
        self.start()
        with self._lock:
            if len(self._readings) < 2:
                return NOTHING_SEEN
            (begun, before), (ended, after) = self._readings[0], self._readings[-1]
        if clock.monotonic() - ended > WINDOW_SECONDS:
            return NOTHING_SEEN
        return traffic(before, after, ended - begun)


_last_minute = LastMinute()
os.register_at_fork(after_in_child=_last_minute.after_fork)


def start_watching() -> None:
    """Begin to watch; a server calls it once per process, so that already the first ``/health`` knows."""
    _last_minute.start()


def last_minute() -> Traffic:
    """The callers' traffic of the last minute, over all processes of this service."""
    return _last_minute.traffic()
