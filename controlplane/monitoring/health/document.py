"""The health document: what ``/health`` says and whether it says 200 or 503.

Its members are those that the first Zantara service had; ``status`` and ``checks`` are added in the spelling
of draft-inadarei-api-health-check. Pure, but for ``current_state``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult, probes

from .minute import Traffic, last_minute
from .probes import Readiness, readiness, run_probes
from .uptime import uptime_seconds
from .watch import Watch

#: From these on a service is not healthy: the limits of the first Zantara service.
MOST_MEMORY_PERCENT = 90.0
MOST_CONNECTIONS = 1000
MOST_RESPONSE_MILLISECONDS = 1000.0

MEBIBYTE = 2**20
#: How long an answer of the probes is given again, and from when on it says nothing any more.
FRESH_SECONDS, STALE_SECONDS = 1.0, 10.0
#: A critical probe's deadline with some air. It is waited for only when nothing recent is known.
CRITICAL_WAIT_SECONDS = 0.6
#: Healthy components answer in a few milliseconds; for one that hangs nobody waits longer.
BRIEF_WAIT_SECONDS = 0.02

NOT_YET = ProbeResult("unknown", "has not answered yet")


@dataclass(frozen=True)
class State:
    """What the document is made of. ``critical`` names the probes without which the process cannot serve;
    ``down`` those of them that do not pass, after hysteresis."""

    at: datetime
    uptime_seconds: float
    memory_used_bytes: int
    memory_limit_bytes: int
    memory_percent: float
    connections: int
    traffic: Traffic
    results: Mapping[str, ProbeResult] = field(default_factory=dict)
    critical: frozenset[str] = frozenset()
    down: frozenset[str] = frozenset()


def reasons_against(state: State) -> list[str]:
    """Why the service is not healthy; nothing if it is."""
    reasons = []
    if state.memory_percent >= MOST_MEMORY_PERCENT:
        reasons.append(f"memory is at {state.memory_percent:.0f} % (limit {MOST_MEMORY_PERCENT:.0f} %)")
    if state.connections >= MOST_CONNECTIONS:
        reasons.append(f"{state.connections} connections are open (limit {MOST_CONNECTIONS})")
    response_time = _milliseconds(state.traffic.p95_seconds)
    if response_time is not None and response_time >= MOST_RESPONSE_MILLISECONDS:
        reasons.append(
            f"one request in twenty takes {response_time:.0f} ms or longer (limit {MOST_RESPONSE_MILLISECONDS:.0f} ms)"
        )
    return reasons + [f"{name} is down" for name in sorted(state.down)]


def health_document(state: State, *, details: bool = False) -> dict[str, Any]:
    """The document. ``details`` adds remedies and measurements, which only this machine's people should read."""
    reasons = reasons_against(state)
    document: dict[str, Any] = {
        "healthy": not reasons,
        "timestamp": state.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "uptime": round(state.uptime_seconds, 3),
        "memory": {
            "used": round(state.memory_used_bytes / MEBIBYTE, 1),
            "total": round(state.memory_limit_bytes / MEBIBYTE, 1),
            "percentage": round(state.memory_percent, 1),
        },
        "connections": state.connections,
        "performance": _performance(state.traffic),
        "services": {name: result.status for name, result in state.results.items()},
        "status": "fail" if reasons else "pass" if _all_pass(state.results) else "warn",
    }
    if reasons:
        document["output"] = "; ".join(reasons)
    document["checks"] = {
        name: [_check(name, result, state, details=details)] for name, result in state.results.items()
    }
    return document


def _performance(traffic: Traffic) -> dict[str, float | None]:
    rate = traffic.requests_per_second
    return {
        "responseTime": _milliseconds(traffic.p95_seconds),
        "medianResponseTime": _milliseconds(traffic.p50_seconds),
        "requestsPerSecond": None if rate is None else round(rate, 2),
        "errorRate": None if traffic.error_share is None else round(traffic.error_share, 4),
        "requests": round(traffic.requests),
        "windowSeconds": round(traffic.seconds, 1),
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _all_pass(results: Mapping[str, ProbeResult]) -> bool:
    return all(result.status == "pass" for result in results.values())


def _check(name: str, result: ProbeResult, state: State, *, details: bool) -> dict[str, Any]:
    is_down = name in state.down
    # the draft knows pass, warn and fail: what is not critical, or fails for the first time, only warns
    status = "fail" if is_down else "pass" if result.status == "pass" else "warn"
    check: dict[str, Any] = {"status": status, "critical": name in state.critical}
    if result.status != "pass":
        check["output"] = result.summary
    if details:
        check["summary"] = result.summary
        check["remedy"] = result.remedy
        if result.observed is not None:
            check |= {"observedValue": result.observed, "observedUnit": result.unit}
    return check


def _ask_others() -> dict[str, ProbeResult]:
    return run_probes(probe for probe in probes if not probe.critical)


_critical: Watch[Readiness] = Watch(readiness, fresh_seconds=FRESH_SECONDS, stale_seconds=STALE_SECONDS)
_others: Watch[dict[str, ProbeResult]] = Watch(_ask_others, fresh_seconds=FRESH_SECONDS, stale_seconds=STALE_SECONDS)


def forget_answers() -> None:
    """Ask every probe anew at the next question."""
    _critical.forget()
    _others.forget()


def current_state() -> State:
    """This service's state now. Takes milliseconds; when a component hangs, at most the critical deadline once."""
    from controlplane.monitoring import pressure

    known = _others.latest(wait_seconds=BRIEF_WAIT_SECONDS, brief_wait_seconds=BRIEF_WAIT_SECONDS) or {}
    ready = _critical.latest(wait_seconds=CRITICAL_WAIT_SECONDS, brief_wait_seconds=BRIEF_WAIT_SECONDS)
    asked: list[Probe] = list(probes)
    critical = frozenset(probe.name for probe in asked if probe.critical)
    answers = {**known, **(ready.results if ready else {})}
    # a critical component of which nothing is known counts as down: silence is no pass
    down = {name for name in critical if ready is None or name not in ready.standings}
    down |= {name for name, standing in (ready.standings.items() if ready else ()) if not standing.passing}
    load = pressure.current()
    return State(
        at=clock.now(),
        uptime_seconds=uptime_seconds(),
        memory_used_bytes=load.memory_used_bytes,
        memory_limit_bytes=load.memory_limit_bytes,
        memory_percent=load.memory_percent,
        connections=load.connections,
        traffic=last_minute(),
        results={probe.name: answers.get(probe.name, NOT_YET) for probe in asked},
        critical=critical,
        down=frozenset(down),
    )
