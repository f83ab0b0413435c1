"""The chart of a deployment: errors and response times of both releases, from what the ticks saw. One query."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deployments.models import Deployment

#: Newest rows that are read: half an hour of ticks, twice the seed's plan. Older ones are kept for the judge.
MOST_ROWS = 900
MOST_POINTS = 120
_LEAST_WIDTH_SECONDS = 2


@dataclass
class _Bucket:
    """Counts of one stretch of time, summed; latencies and scores of its last tick that knew them."""

    requests: dict[str, int] = field(default_factory=lambda: {"new": 0, "old": 0})
    errors: dict[str, int] = field(default_factory=lambda: {"new": 0, "old": 0})
    last: dict[str, float | None] = field(default_factory=dict)


def points_of(deployment: Deployment) -> dict[str, Any]:
    """For the browser: parallel lists (``at`` in ms), what each stage really got, and whether more will come."""
    newest = deployment.observations.order_by("-at", "-pk").values_list("at", "stage_index", "data")[:MOST_ROWS]
    rows = list(newest)[::-1]
    return {"over": deployment.is_over, "stages": measured_shares(rows), **downsampled(rows)}


def downsampled(rows: Sequence[tuple[datetime, int, Mapping[str, Any]]]) -> dict[str, list[Any]]:
    """At most MOST_POINTS points; a rate is errors by requests of its stretch, None where it had no request."""
    names = ("new_errors", "old_errors", "new_p95", "old_p95", "permille", "score")
    series: dict[str, list[Any]] = {"at": [], **{name: [] for name in names}}
    if not rows:
        return series
    first = rows[0][0].timestamp()
    width = max(_LEAST_WIDTH_SECONDS, math.ceil((rows[-1][0].timestamp() - first) / (MOST_POINTS - 1)))
    for number, bucket in sorted(_buckets(rows, first, width).items()):
        series["at"].append(int((first + number * width) * 1000))
        for side in ("new", "old"):
            total = bucket.requests[side]
            series[f"{side}_errors"].append(round(100 * bucket.errors[side] / total, 3) if total else None)
        for name in names[2:]:
            series[name].append(bucket.last.get(name))
    return series


def _buckets(rows: Iterable[tuple[datetime, int, Mapping[str, Any]]], first: float, width: int) -> dict[int, _Bucket]:
    buckets: dict[int, _Bucket] = {}
    for at, _, data in rows:
        bucket = buckets.setdefault(int((at.timestamp() - first) // width), _Bucket())
        for side in ("new", "old"):
            counts = data.get(side)
            if counts is not None:
                bucket.requests[side] += int(counts.get("requests") or 0)
                bucket.errors[side] += int(counts.get("errors") or 0)
        for name, key in (("new_p95", "p95_new_ms"), ("old_p95", "p95_old_ms"), ("permille", ""), ("score", "")):
            value = data.get(key or name)
            if value is not None:
                bucket.last[name] = round(float(value), 1)
    return buckets


def measured_shares(rows: Iterable[tuple[datetime, int, Mapping[str, Any]]]) -> dict[int, float]:
    """Stage -> percent of the requests that the new release really answered in it, where both sides were counted."""
    counted: dict[int, list[int]] = {}
    for _, stage, data in rows:
        new, old = data.get("new"), data.get("old")
        if new is None or old is None:
            continue
        sums = counted.setdefault(stage, [0, 0])
        sums[0] += int(new.get("requests") or 0)
        sums[1] += int(old.get("requests") or 0)
    return {stage: round(100 * new / (new + old), 1) for stage, (new, old) in counted.items() if new + old}
