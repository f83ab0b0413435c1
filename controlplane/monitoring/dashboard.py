"""What the console and the API show of one service: rates, errors and durations between two scrapes.

Pure: parsed scrapes in, plain data out, ready for JSON. Rates are per second, shares 0–1, durations in
seconds. A part without any observation has None where a number would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from .parsing import BUCKET, COUNT, SUM, Buckets, Difference, Exposition, difference, error_share, quantile

REQUESTS = "zantara_requests_total"
DURATION = "zantara_request_duration_seconds"
ROLE_DURATION = "zantara_role_duration_seconds"
CONNECTIONS = "zantara_active_connections"
IN_FLIGHT = "zantara_requests_in_flight"
VECTOR_OPERATIONS = "zantara_vector_operations_total"
JWT_OPERATIONS = "zantara_jwt_operations_total"
#: The metrics that :func:`dashboard_metrics` reads: nothing else of a scrape has to be parsed for it.
METRICS = (
    REQUESTS, DURATION, ROLE_DURATION, CONNECTIONS, IN_FLIGHT, VECTOR_OPERATIONS, JWT_OPERATIONS,
)  # fmt: skip

#: Asked by machines every few seconds, us among them: they are counted in ``/metrics``, but are no traffic.
PROBE_ROUTES = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})

#: ``status`` of an operation that did what was asked; anything else counts as an error.
SUCCESS = "success"


class Flow(TypedDict):
    """The requests of one route, handler or role, or all of them.

    The quantiles are None where nothing was seen, or where the service does not measure durations by this label.
    """

    name: str
    count: float
    rate: float
    errors: float
    error_share: float
    p50_seconds: float | None
    p95_seconds: float | None


class Requests(TypedDict):
    count: float
    rate: float
    errors: float
    error_share: float | None
    byRoute: list[Flow]
    byHandler: list[Flow]
    byRole: list[Flow]


class ResponseTime(TypedDict):
    p50_seconds: float | None
    p95_seconds: float | None
    mean_seconds: float | None


class Connections(TypedDict):
    established: float | None
    in_flight: float | None


class Operation(TypedDict):
    """One kind of operation; ``by`` is the vector store's provider or the caller's role."""

    operation: str
    by: str
    count: float
    rate: float
    errors: float


class Operations(TypedDict):
    count: float
    rate: float
    errors: float
    byOperation: list[Operation]


class DashboardMetrics(TypedDict):
    requests: Requests
    responseTime: ResponseTime
    activeConnections: Connections
    vectorOps: Operations
    jwtOps: Operations


def dashboard_metrics(before: Exposition, after: Exposition, seconds: float) -> DashboardMetrics:
    """What one service did in the ``seconds`` between two scrapes. Raises ``Refused`` unless time has passed."""
    return metrics_of(difference(before, after, seconds))


def metrics_of(seen: Difference) -> DashboardMetrics:
    """The same from a difference that is there already. Scrapes and health checks are left out."""
    seen = seen.without("route", PROBE_ROUTES)
    by_status = seen.by(REQUESTS, "status")
    share = error_share(by_status)
    count = sum(by_status.values())
    observed = seen.total(DURATION + COUNT)
    return {
        "requests": {
            "count": count,
            "rate": count / seen.seconds,
            "errors": (share or 0.0) * count,
            "error_share": share,
            "byRoute": _flows(seen, "route", DURATION),
            "byHandler": _flows(seen, "handler", DURATION),
            "byRole": _flows(seen, "user_role", ROLE_DURATION),
        },
        "responseTime": {
            "p50_seconds": seen.quantile(0.5, DURATION),
            "p95_seconds": seen.quantile(0.95, DURATION),
            "mean_seconds": seen.total(DURATION + SUM) / observed if observed > 0 else None,
        },
        "activeConnections": {"established": seen.gauge(CONNECTIONS), "in_flight": seen.gauge(IN_FLIGHT)},
        "vectorOps": _operations(seen, VECTOR_OPERATIONS, "provider"),
        "jwtOps": _operations(seen, JWT_OPERATIONS, "role"),
    }


def _flows(seen: Difference, label: str, histogram: str) -> list[Flow]:
    statuses: dict[str, dict[str, float]] = {}
    for (name, status), count in seen.by_all(REQUESTS, (label, "status")).items():
        if count > 0:
            statuses.setdefault(name, {})[status] = count
    buckets: dict[str, list[tuple[float, float]]] = {}  # in one pass, however many routes there are
    for (name, bound), count in seen.by_all(histogram + BUCKET, (label, "le")).items():
        buckets.setdefault(name, []).append((float(bound), count))
    flows = [_flow(name, found, seen.seconds, tuple(sorted(buckets.get(name, ())))) for name, found in statuses.items()]
    return sorted(flows, key=lambda flow: (-flow["count"], flow["name"]))


def _flow(name: str, statuses: Mapping[str, float], seconds: float, buckets: Buckets) -> Flow:
    count, share = sum(statuses.values()), error_share(statuses) or 0.0
    return {
        "name": name,
        "count": count,
        "rate": count / seconds,
        "errors": share * count,
        "error_share": share,
        "p50_seconds": quantile(0.5, buckets),
        "p95_seconds": quantile(0.95, buckets),
    }


def _operations(seen: Difference, name: str, by: str) -> Operations:
    found: dict[tuple[str, str], Operation] = {}
    for (operation, who, status), count in seen.by_all(name, ("operation", by, "status")).items():
        if count <= 0:
            continue
        empty: Operation = {"operation": operation, "by": who, "count": 0.0, "rate": 0.0, "errors": 0.0}
        line = found.setdefault((operation, who), empty)
        line["count"] += count
        line["rate"] += count / seen.seconds
        line["errors"] += 0.0 if status == SUCCESS else count
    lines = sorted(found.values(), key=lambda line: (-line["count"], line["operation"], line["by"]))
    return {
        "count": sum(line["count"] for line in lines),
        "rate": sum(line["rate"] for line in lines),
        "errors": sum(line["errors"] for line in lines),
        "byOperation": lines,
    }
