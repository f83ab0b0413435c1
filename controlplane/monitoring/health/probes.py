"""Asking components whether they work, each within its deadline, and what that says about readiness."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from django.db import DatabaseError

from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError
from controlplane.kernel.logs import redact_text
from controlplane.kernel.registry import Probe, ProbeResult, probes

logger = structlog.get_logger(__name__)

#: How long an answer about readiness is given again without asking. Load balancers ask every second or so.
READINESS_CACHE_SECONDS = 1.0
#: So many failures in a row make a component that has worked count as failing.
FAILURES_TO_FAIL = 2


class _Run:
    """One run of one probe on a thread of its own, which nobody has to wait for."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._done = threading.Event()
        self._result = ProbeResult("unknown", "did not answer yet")
        self.started_at = clock.monotonic()
        threading.Thread(target=self._work, name=f"probe-{probe.name}", daemon=True).start()

    @property
    def is_running(self) -> bool:
        return not self._done.is_set()

    def result(self) -> ProbeResult:
        left = self.started_at + self._probe.timeout_seconds - clock.monotonic()
        if self._done.wait(max(left, 0)):
            return self._result
        return _late(self._probe)

    def _work(self) -> None:
        try:
            self._result = _answer(self._probe)
        finally:
            try:
                _close_database_connections()
            finally:
                self._done.set()


def _close_database_connections() -> None:
    """What a probe opened belongs to its thread, which ends here."""
    from django.conf import settings
    from django.db import connections

    if settings.configured:
        connections.close_all()


def _late(probe: Probe) -> ProbeResult:
    return ProbeResult(
        "unknown",
        f"did not answer within {probe.timeout_seconds:g} s",
        remedy=f"See whether {probe.label} hangs or is overloaded.",
    )


def _answer(probe: Probe) -> ProbeResult:
    try:
        result = probe.run()
    except ZantaraError as error:
        result = ProbeResult("fail", error.message, remedy=error.remedy)
    except DatabaseError as error:  # what is wrong with the database is the probe `database`'s to say
        logger.warning("probe_without_database", probe=probe.name, error=type(error).__name__)
        remedy = "See what the probe `database` says; `manage.py bootstrap` makes what is missing."
        result = ProbeResult("unknown", f"the database cannot be asked ({type(error).__name__})", remedy=remedy)
    except Exception as error:  # a probe may fail in any way; that is its answer
        logger.warning("probe_failed", probe=probe.name, exc_info=True)
        result = ProbeResult("fail", f"{type(error).__name__}: {error}")
    return replace(result, summary=redact_text(result.summary), remedy=redact_text(result.remedy))


class ProbeRunner:
    """Runs probes with at most one thread per probe: one that hangs is asked again only when it has returned."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hanging: dict[str, _Run] = {}

    def run(self, asked: Iterable[Probe]) -> dict[str, ProbeResult]:
        """Ask all of them at once; each answers, or is ``unknown`` at its deadline. Never raises."""
        asked = list(asked)
        runs = {probe.name: self._start(probe) for probe in asked}
        results = {}
        for probe in asked:
            run = runs[probe.name]
            results[probe.name] = _late(probe) if run is None else run.result()
        return results

    def _start(self, probe: Probe) -> _Run | None:
        with self._lock:
            previous = self._hanging.get(probe.name)
            if previous is not None and previous.is_running:
                # Two callers at once share a run; one that is past its deadline is not waited for again.
                overdue = clock.monotonic() - previous.started_at > probe.timeout_seconds
                return None if overdue else previous
            run = self._hanging[probe.name] = _Run(probe)
            return run


_runner = ProbeRunner()


def run_probe(probe: Probe) -> ProbeResult:
    """Ask one component within ``probe.timeout_seconds``. Exception: ``fail``; no answer: ``unknown``. Never raises."""
    return _runner.run([probe])[probe.name]


def run_probes(asked: Iterable[Probe]) -> dict[str, ProbeResult]:
    """Ask several at once; the whole takes as long as the slowest deadline."""
    return _runner.run(asked)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one component has been doing. ``passing`` is what counts; ``failures`` those in a row until now."""

    passing: bool = False
    failures: int = 0
    has_passed: bool = False


def settle(before: Standing, passed: bool) -> Standing:
    """The standing after one more answer.

    One pass makes a component pass. One failure is forgiven to a component that was passing, so that one
    lost packet takes no instance out of service; one that has never passed fails at once.
    """
    if passed:
        return Standing(passing=True, failures=0, has_passed=True)
    failures = before.failures + 1
    return replace(before, passing=before.passing and failures < FAILURES_TO_FAIL, failures=failures)


@dataclass(frozen=True)
class Readiness:
    """Whether this process can serve, with what each critical probe said last."""

    ready: bool
    standings: Mapping[str, Standing]
    results: Mapping[str, ProbeResult]

    def as_json(self) -> dict[str, Any]:
        checks = {
            name: {"status": "pass" if self.standings[name].passing else "fail", "summary": result.summary}
            for name, result in self.results.items()
        }
        return {"status": "pass" if self.ready else "fail", "checks": checks}


class ReadinessJudge:
    """Readiness from the critical probes, asked at most once per cache time however many callers there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._standings: dict[str, Standing] = {}
        self._last: tuple[float, Readiness] | None = None

    def readiness(self) -> Readiness:
        with self._lock:
            now = clock.monotonic()
            if self._last is not None and now - self._last[0] < READINESS_CACHE_SECONDS:
                return self._last[1]
            answer = self._ask()
            self._last = (clock.monotonic(), answer)
            return answer

    def _ask(self) -> Readiness:
        results = run_probes(probe for probe in probes if probe.critical)
        before = self._standings
        self._standings = {
            name: settle(before.get(name, Standing()), result.status in ("pass", "warn"))
            for name, result in results.items()
        }
        ready = all(standing.passing for standing in self._standings.values())
        return Readiness(ready, self._standings, results)


_judge = ReadinessJudge()


def readiness() -> Readiness:
    """This process's readiness; at most one second old."""
    return _judge.readiness()
