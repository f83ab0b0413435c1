"""Series for charts: a field of the samples over a span of time, in as many points as a chart can show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from .models import Sample
from .taking import COARSE, FINE, KEEP_FINE

How = Literal["mean", "max"]

#: What can be drawn, with what becomes of several values in one point: a peak must not vanish in a mean.
FIELDS: Mapping[str, How] = {
    "requests_per_second": "mean",
    "error_share": "mean",
    "p50_seconds": "mean",
    "p95_seconds": "max",
    "sheds_per_second": "mean",
    "denied_per_second": "mean",
    "jwt_per_second": "mean",
    "jwt_errors_per_second": "mean",
    "vector_per_second": "mean",
    "vector_errors_per_second": "mean",
    "in_flight": "max",
    "connections": "max",
    "memory_percent": "max",
}
MOST_POINTS = 2000
#: So many rows are read for one point; beyond it the 5-minute rows say as much.
_MOST_FINE_ROWS = 3000


@dataclass(frozen=True, slots=True)
class Point:
    """``value`` from ``at`` until the next point; None is a gap: nothing was measured."""

    at: datetime
    value: float | None


Series = tuple[Point, ...]


def down_sample(
    rows: Iterable[tuple[datetime, float | None]], *, since: datetime, until: datetime, points: int, how: How
) -> Series:
    """Points of equal width over the span; one without a value is a gap. Rows outside the span count for nothing."""
    _check_span(since, until, points)
    width = (until - since) / points
    bins: list[list[float]] = [[] for _ in range(points)]
    for at, value in rows:
        if value is not None and since <= at < until:
            bins[min(int((at - since) / width), points - 1)].append(value)
    return tuple(Point(since + number * width, _one(values, how)) for number, values in enumerate(bins))


def _one(values: Sequence[float], how: How) -> float | None:
    if not values:
        return None
    return max(values) if how == "max" else sum(values) / len(values)


def _check_span(since: datetime, until: datetime, points: int) -> None:
    if not since < until:
        raise Refused("A series needs a span of time that begins before it ends.")
    if not 1 <= points <= MOST_POINTS:
        raise Refused(f"A series has 1 to {MOST_POINTS} points, not {points}.")


def resolution_for(since: datetime, until: datetime, now: datetime) -> int:
    """15 where such rows are still kept and not too many of them are asked for, else 300."""
    fine_rows = (until - since).total_seconds() / FINE
    return FINE if since >= now - KEEP_FINE and fine_rows <= _MOST_FINE_ROWS else COARSE


def most_points(since: datetime, until: datetime, points: int, resolution: int) -> int:
    """No more points than there can be rows: otherwise every second point would be a gap."""
    return max(1, min(points, int((until - since) / timedelta(seconds=resolution))))


def series(
    service: str, field: str, since: datetime, until: datetime, points: int = 120, *, now: datetime | None = None
) -> Series:
    """One field of one service. One query."""
    return many_series([service], [field], since, until, points, now=now)[service][field]


def many_series(
    services: Sequence[str],
    fields: Sequence[str],
    since: datetime,
    until: datetime,
    points: int = 120,
    *,
    now: datetime | None = None,
) -> dict[str, dict[str, Series]]:
    """Several fields of several services, by service and field. One query. Refused for a field that is no figure."""
    unknown = sorted(set(fields) - FIELDS.keys())
    if unknown:
        raise Refused(f"Samples have no figure {', '.join(unknown)}.", remedy=f"Known: {', '.join(FIELDS)}.")
    _check_span(since, until, points)
    resolution = resolution_for(since, until, now or clock.now())
    points = most_points(since, until, points, resolution)
    rows: dict[str, list[tuple[Any, ...]]] = {service: [] for service in services}
    found = Sample.objects.filter(
        service__in=list(services), resolution=resolution, at__gte=since, at__lt=until
    ).order_by("at")
    for service, *values in found.values_list("service", "at", *fields):
        rows[service].append(tuple(values))
    return {
        service: {
            field: down_sample(_column(own, column), since=since, until=until, points=points, how=FIELDS[field])
            for column, field in enumerate(fields, start=1)
        }
        for service, own in rows.items()
    }


def _column(rows: Iterable[tuple[Any, ...]], number: int) -> Iterator[tuple[datetime, float | None]]:
    return ((row[0], row[number]) for row in rows)


def latest(services: Sequence[str]) -> dict[str, Sample]:
    """The newest 15 s row of each service, whether it was up or not. One query per service."""
    found = (Sample.objects.filter(service=name, resolution=FINE).order_by("-at").first() for name in services)
    return {row.service: row for row in found if row is not None}
