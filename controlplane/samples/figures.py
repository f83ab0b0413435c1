"""From two scrapes to the numbers of one sample row, and from many rows to one of a longer time. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.monitoring.dashboard import DURATION, PROBE_ROUTES, Flow, metrics_of
from controlplane.monitoring.dashboard import METRICS as DASHBOARD_METRICS
from controlplane.monitoring.parsing import Buckets, Difference, Exposition, difference, quantile

SHEDS = "zantara_sheds_total"
DECISIONS = "zantara_limit_decisions_total"
IN_FLIGHT = "zantara_requests_in_flight"
CONNECTIONS = "zantara_active_connections"
MEMORY = "zantara_memory_used_ratio"
#: What a scrape is read for; the rest of it is neither parsed nor kept.
METRICS = (*DASHBOARD_METRICS, SHEDS, DECISIONS, MEMORY)

#: The outcome of a limit's decision that the caller feels.
DENIED = "denied"
#: So many routes, handlers and roles are named in a row. Labels are a service's own: a row must stay small.
MOST_NAMED = 10
LONGEST_NAME = 120

RATES = (
    "requests_per_second", "sheds_per_second", "denied_per_second", "jwt_per_second", "jwt_errors_per_second",
    "vector_per_second", "vector_errors_per_second",
)  # fmt: skip
GAUGES = ("in_flight", "connections", "memory_percent")

Row = Mapping[str, Any]


def gauges_of(scrape: Exposition) -> dict[str, Any]:
    """What one scrape says by itself."""
    memory = scrape.value(MEMORY)
    return {
        "in_flight": scrape.value(IN_FLIGHT),
        "connections": scrape.value(CONNECTIONS),
        "memory_percent": None if memory is None else round(memory * 100, 2),
    }


def figures_of(before: Exposition, after: Exposition, seconds: float) -> dict[str, Any]:
    """The fields of a row for the ``seconds`` between two scrapes. Raises ``Refused`` unless time has passed."""
    passed = difference(before, after, seconds)
    shown = metrics_of(passed)
    return {
        **gauges_of(after),
        "seconds": round(seconds, 3),
        "requests": shown["requests"]["count"],
        "requests_per_second": _round(shown["requests"]["rate"]),
        "error_share": _round(shown["requests"]["error_share"]),
        "p50_seconds": _round(shown["responseTime"]["p50_seconds"]),
        "p95_seconds": _round(shown["responseTime"]["p95_seconds"]),
        "sheds_per_second": _round(passed.rate(SHEDS)),
        "denied_per_second": _round(passed.rate(DECISIONS, outcome=DENIED)),
        "jwt_per_second": _round(shown["jwtOps"]["rate"]),
        "jwt_errors_per_second": _round(shown["jwtOps"]["errors"] / seconds),
        "vector_per_second": _round(shown["vectorOps"]["rate"]),
        "vector_errors_per_second": _round(shown["vectorOps"]["errors"] / seconds),
        "roles": _busiest_roles({flow["name"]: flow["rate"] for flow in shown["requests"]["byRole"]}),
        "routes": [_named(flow) for flow in shown["requests"]["byRoute"][:MOST_NAMED]],
        "handlers": [_named(flow) for flow in shown["requests"]["byHandler"][:MOST_NAMED]],
        "buckets": _written(_duration_buckets(passed.without("route", PROBE_ROUTES))),
    }


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def _named(flow: Flow) -> list[Any]:
    """As a list: the names of its parts in each of ten entries would be half of a row. Read it with ``Busy``."""
    name, requests = flow["name"][:LONGEST_NAME], _short(flow["count"])
    return [name, requests, _short(_round(flow["error_share"])), _round(flow["p95_seconds"])]


def _short(number: float | None) -> float | None:
    return int(number) if number is not None and number == int(number) else number


@dataclass(frozen=True, slots=True)
class Busy:
    """What a row says of one route or handler."""

    name: str
    requests: float
    error_share: float
    p95_seconds: float | None


def _busiest_roles(rates: Mapping[str, float]) -> dict[str, float]:
    busiest = sorted(rates.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMED]
    return {name[:LONGEST_NAME]: round(rate, 4) for name, rate in busiest}


def _duration_buckets(passed: Difference) -> Buckets:
    buckets = passed.buckets(DURATION)
    return buckets if buckets and buckets[-1][1] > 0 else ()


def _written(buckets: Buckets) -> list[list[float | None]]:
    return [[None if math.isinf(bound) else bound, _short(count)] for bound, count in buckets]


def roll_up(rows: Sequence[Row]) -> dict[str, Any]:
    """The fields of one row for the time of several of the same service, in their order.

    Quantiles come from the added-up buckets, so they are as good as the finer ones; those of a single route
    or handler are the highest seen. Rates weigh by time, gauges are the highest seen.
    """
    known = [row for row in rows if row["seconds"]]
    seconds = math.fsum(row["seconds"] for row in known)
    requests = math.fsum(row["requests"] for row in known)
    buckets = _added(row["buckets"] for row in known)
    answered = sum(row["samples_up"] for row in rows)
    fields: dict[str, Any] = {
        "up": answered > 0,
        "samples": sum(row["samples"] for row in rows),
        "samples_up": answered,
        "seconds": round(seconds, 3) if known else None,
        "requests": requests if known else None,
        "error_share": _weighted(known, "error_share", lambda row: row["requests"]),
        "p50_seconds": _round(quantile(0.5, buckets)),
        "p95_seconds": _round(quantile(0.95, buckets)),
        "roles": _busiest_roles(_role_rates(known, seconds)) if known else {},
        "routes": _merged(row["routes"] for row in known),
        "handlers": _merged(row["handlers"] for row in known),
        "buckets": _written(buckets),
    }
    fields |= {name: _weighted(known, name, lambda row: row["seconds"]) for name in RATES}
    fields |= {name: max((row[name] for row in rows if row[name] is not None), default=None) for name in GAUGES}
    return fields


def _weighted(rows: Iterable[Row], name: str, weight: Callable[[Row], float]) -> float | None:
    pairs = [(row[name], weight(row)) for row in rows if row[name] is not None]
    total = math.fsum(own for _, own in pairs)
    return _round(math.fsum(value * own for value, own in pairs) / total) if total > 0 else None


def _role_rates(rows: Iterable[Row], seconds: float) -> dict[str, float]:
    counts: dict[str, float] = {}
    for row in rows:
        for name, rate in row["roles"].items():
            counts[name] = counts.get(name, 0.0) + rate * row["seconds"]
    return {name: count / seconds for name, count in counts.items()}


def _merged(lists: Iterable[Sequence[Sequence[Any]]]) -> list[list[Any]]:
    merged: dict[str, tuple[float, float, list[float]]] = {}
    for entries in lists:
        for name, requests, share, p95 in entries:
            count, errors, slowest = merged.get(name, (0.0, 0.0, []))
            merged[name] = (count + requests, errors + requests * share, [*slowest, *([] if p95 is None else [p95])])
    busiest = sorted(merged.items(), key=lambda item: (-item[1][0], item[0]))[:MOST_NAMED]
    return [
        [name, _short(round(count, 3)), _short(_round(errors / count)) if count else 0, max(slowest, default=None)]
        for name, (count, errors, slowest) in busiest
    ]


def _added(lists: Iterable[Sequence[Sequence[float | None]]]) -> Buckets:
    sums: dict[float, float] = {}
    for written in lists:
        for bound, count in written:
            key = math.inf if bound is None else bound
            sums[key] = sums.get(key, 0.0) + (count or 0.0)
    return tuple(sorted(sums.items()))
