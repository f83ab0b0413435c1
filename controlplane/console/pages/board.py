"""The last answers of all health probes, refreshed beside the request so that a page never waits for a probe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.db import connections

from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult, probes

log = structlog.get_logger(__name__)

#: Answers older than this are asked for again when somebody looks; the page asks every two seconds.
FRESH_SECONDS = 1.5
#: Answers younger than this are shown at once, while newer ones are fetched for whoever asks next.
SHOWN_SECONDS = 5.0
#: How long a request waits for answers where it has none, or old ones. A healthy probe takes a few milliseconds.
PATIENCE_SECONDS = 0.03

#: What comes first: what is broken, then what cannot be known, then what needs a look.
_ORDER = {"fail": 0, "unknown": 1, "warn": 2, "pass": 3}


@dataclass(frozen=True)
class Line:
    """One probe with its last answer. ``asked_at`` None: not asked yet by this process."""

    probe: Probe
    result: ProbeResult
    asked_at: datetime | None = None
    last_passed_at: datetime | None = None


NOT_ASKED = ProbeResult("unknown", "Not asked yet.")
NO_ANSWER = ProbeResult("unknown", "The probes could not be run.", "See the log of the web process.")


def _ask(asked: list[Probe]) -> Mapping[str, ProbeResult]:
    from controlplane.monitoring.health.probes import run_probes

    return run_probes(asked)


class Board:
    """Thread-safe; one refresh at a time, however many people look."""

    def __init__(
        self,
        source: Iterable[Probe] = probes,
        ask: Callable[[list[Probe]], Mapping[str, ProbeResult]] = _ask,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._source, self._ask, self._patience = source, ask, patience_seconds
        self._lock = threading.Lock()
        self._lines: dict[str, Line] = {}
        self._refreshed_at = self._started_at = float("-inf")
        self._running: threading.Event | None = None

    def lines(self) -> list[Line]:
        """Every registered probe, open problems first.

        Waits only where the answers are older than ``SHOWN_SECONDS``, and at most ``patience_seconds`` from the
        refresh's start: whoever comes while a probe hangs does not wait at all.
        """
        done = self._start_if_stale()
        if done is not None and clock.monotonic() - self._refreshed_at >= SHOWN_SECONDS:
            done.wait(max(0.0, self._started_at + self._patience - clock.monotonic()))
        with self._lock:
            lines = [self._lines.get(probe.name, Line(probe, NOT_ASKED)) for probe in self._source]
        return sorted(lines, key=lambda line: _ORDER[line.result.status])

    def _start_if_stale(self) -> threading.Event | None:
        with self._lock:
            if self._running is not None:
                return self._running
            if clock.monotonic() - self._refreshed_at < FRESH_SECONDS:
                return None
            self._running = done = threading.Event()
            self._started_at = clock.monotonic()
        threading.Thread(target=self._refresh, args=(done,), name="start-page-probes", daemon=True).start()
        return done

    def _refresh(self, done: threading.Event) -> None:
        asked = list(self._source)
        try:
            answers = self._ask(asked)
        except Exception as problem:  # noqa: BLE001  (a thread's failure has no other way to be told)
            log.warning("probes_crashed", error=type(problem).__name__)
            answers = {}
        finally:
            connections.close_all()
        try:
            for probe in asked:
                self._note(probe, answers.get(probe.name, NO_ANSWER))
        finally:
            with self._lock:
                self._running, self._refreshed_at = None, clock.monotonic()
            done.set()

    def _note(self, probe: Probe, result: ProbeResult) -> None:
        now = clock.now()
        with self._lock:
            before = self._lines.get(probe.name)
            passed = now if result.status == "pass" else before.last_passed_at if before else None
            self._lines[probe.name] = Line(probe, result, now, passed)


board = Board()
