"""The dashboard's figures in people's units: tiles with a judgement, tables, and the points of its charts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from controlplane.console.base import badge
from controlplane.monitoring.dashboard import DashboardMetrics, Flow, Operation

from .docs import docs_url

#: Where a figure is worth a look, and where it is bad. Memory, connections and response time: the bounds at which
#: the service calls itself unhealthy, and those at which pressure begins; a share of errors: 1 % and 5 %.
ERROR_SHARE = (0.01, 0.05)
P95_SECONDS = (0.7, 1.0)
CONNECTIONS = (800.0, 1000.0)
MEMORY_PERCENT = (75.0, 90.0)
#: Rows of a table on the page.
MOST_ROWS = 6

Level = Literal["", "warn", "bad"]


@dataclass(frozen=True)
class Span:
    """A choice of the time that the charts show, in points of equal width."""

    key: str
    label: str
    width_seconds: int
    points: int

    @property
    def seconds(self) -> int:
        return self.width_seconds * self.points

    @property
    def grows(self) -> bool:
        """Whether new points are asked for one by one; longer spans are loaded whole, and seldom."""
        return self.width_seconds < 300


SPANS = (
    Span("1h", "1 h", 15, 240),
    Span("6h", "6 h", 90, 240),
    Span("48h", "48 h", 600, 288),
    Span("90d", "90 d", 21600, 360),
)


@dataclass(frozen=True)
class Chart:
    """One chart: its lines are (label, figure of the samples, what to multiply it with)."""

    name: str
    title: str
    unit: str
    lines: tuple[tuple[str, str, float], ...]
    docs: str
    whole: bool = False


CHARTS = (
    Chart("requests", "Requests", "/s", (("requests", "requests_per_second", 1),), "requests"),
    Chart("errors", "Errors", "%", (("errors", "error_share", 100),), "errors"),
    Chart("response-time", "Response time, p95", "ms", (("p95", "p95_seconds", 1000),), "response-time"),
    Chart(
        "refused",
        "Refused",
        "/s",
        (("shed", "sheds_per_second", 1), ("over a limit", "denied_per_second", 1)),
        "refused",
    ),
    Chart("connections", "Connections", "", (("connections", "connections", 1),), "connections", whole=True),
    Chart("memory", "Memory", "%", (("memory", "memory_percent", 1),), "memory"),
)
FIELDS = tuple(dict.fromkeys(field for chart in CHARTS for _, field, _ in chart.lines))


def number(value: float | None, unit: str = "") -> str:
    """At most three digits that matter: ``0.25``, ``12.3``, ``1 240``; a dash where nothing is known."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100 or value == int(value):
        text = f"{value:,.0f}".replace(",", "\u202f")
    else:
        text = f"{value:.1f}" if size >= 10 else f"{value:.2f}"
        text = text.rstrip("0").rstrip(".") or "0"
    return f"{text}{unit}"


def milliseconds(seconds: float | None) -> str:
    """A duration as ``12 ms`` or ``1.4 s``."""
    if seconds is None:
        return "–"
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(round(seconds * 1000, 1))} ms"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{number(share * 100)} %"


def level(value: float | None, bounds: tuple[float, float]) -> Level:
    if value is None or value < bounds[0]:
        return ""
    return "bad" if value >= bounds[1] else "warn"


_JUDGED = {"": "", "warn": badge("High", "warn"), "bad": badge("Too high", "bad")}


def tiles(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of the newest sample row (its fields by name), most telling first."""
    refused, in_flight, errors = row["sheds_per_second"], row["in_flight"], row["error_share"]
    return [
        _tile("requests", "Requests", number(row["requests_per_second"]), "per second"),
        _tile("errors", "Errors", percent(errors), "of all answers", level(errors, ERROR_SHARE)),
        _tile(
            "response-time", "Response time", milliseconds(row["p95_seconds"]),
            f"p95, median {milliseconds(row['p50_seconds'])}", level(row["p95_seconds"], P95_SECONDS),
        ),
        _tile(
            "refused", "Shed", number(refused), f"per second, {number(row['denied_per_second'])} over a limit",
            "warn" if refused else "",
        ),
        _tile(
            "connections", "Connections", number(row["connections"]),
            f"{number(in_flight)} request{'' if in_flight == 1 else 's'} in flight",
            level(row["connections"], CONNECTIONS),
        ),
        _tile(
            "memory", "Memory", "–" if row["memory_percent"] is None else f"{number(row['memory_percent'])} %",
            "of what it may use", level(row["memory_percent"], MEMORY_PERCENT),
        ),
    ]  # fmt: skip


def _tile(name: str, label: str, value: str, note: str, judged: Level = "") -> dict[str, Any]:
    shown = badge("Yes", "warn") if name == "refused" and judged else _JUDGED[judged]
    return {
        "name": name, "label": label, "value": value, "note": note, "level": judged, "badge": shown,
        "docs": docs_url(f"docs/dashboard.md#{name}"),
    }  # fmt: skip


def tables(metrics: DashboardMetrics) -> list[dict[str, Any]]:
    """Busiest routes and handlers, roles, and operations; only those that have something to show."""
    requests = metrics["requests"]
    found = [
        _flow_table("routes", "Busiest routes", "Route", requests["byRoute"], "busiest"),
        _flow_table("handlers", "Busiest handlers", "Handler", requests["byHandler"], "busiest"),
        _flow_table("roles", "Requests by role", "Role", requests["byRole"], "roles"),
        _operation_table("tokens", "Token operations", "Role", metrics["jwtOps"]["byOperation"], "tokens"),
        _operation_table("vectors", "Vector operations", "Store", metrics["vectorOps"]["byOperation"], "vectors"),
    ]
    return [table for table in found if table["rows"]]


def _flow_table(name: str, title: str, first: str, flows: Sequence[Flow], docs: str) -> dict[str, Any]:
    has_times = any(flow["p95_seconds"] is not None for flow in flows)
    rows = [
        {
            "name": flow["name"] or "none",
            "cells": [number(flow["rate"]), percent(flow["error_share"])]
            + ([milliseconds(flow["p50_seconds"]), milliseconds(flow["p95_seconds"])] if has_times else []),
            "level": level(flow["error_share"], ERROR_SHARE),
        }
        for flow in flows[:MOST_ROWS]
    ]
    heads = ["per s", "errors", *(["p50", "p95"] if has_times else [])]
    return _table(name, title, first, heads, rows, len(flows), docs)


def _operation_table(name: str, title: str, by: str, lines: Sequence[Operation], docs: str) -> dict[str, Any]:
    rows = [
        {
            "name": f"{line['operation']} · {line['by']}" if line["by"] else line["operation"],
            "cells": [number(line["rate"]), percent(line["errors"] / line["count"])],
            "level": level(line["errors"] / line["count"], ERROR_SHARE),
        }
        for line in lines[:MOST_ROWS]
    ]
    return _table(name, title, f"Operation · {by.lower()}", ["per s", "not well"], rows, len(lines), docs)


def _table(
    name: str, title: str, first: str, heads: list[str], rows: list[dict[str, Any]], total: int, docs: str
) -> dict[str, Any]:
    return {
        "name": name, "title": title, "first": first, "heads": heads, "rows": rows,
        "more": total - len(rows), "docs": docs_url(f"docs/dashboard.md#{docs}"),
    }  # fmt: skip


def window(span: Span, now: datetime, after: datetime | None = None) -> tuple[datetime, datetime, int]:
    """Since, until and the number of points, on the same grid at every poll; from ``after`` on where it lies within."""
    width = span.width_seconds
    until = (int(now.timestamp()) // width + 1) * width
    since = until - span.seconds
    if after is not None and span.grows:
        since = min(max(since, int(after.timestamp()) // width * width), until - width)
    return datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC), (until - since) // width


def columns(series: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
    """The points of all figures as columns: ``at`` in milliseconds since 1970, and one list per figure."""
    found: dict[str, list[Any]] = {}
    for field, points in series.items():
        kept = list(points)
        found.setdefault("at", [int(point.at.timestamp() * 1000) for point in kept])
        found[field] = [None if point.value is None else round(point.value, 4) for point in kept]
    return found
