"""The newest dashboard figures of each service, in Redis: what a sample row has no columns for.

Written by the task that takes the samples, from the two scrapes it has in hand; the pages read it in one round trip.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import redis
import structlog

from controlplane.kernel.errors import Refused
from controlplane.monitoring.dashboard import DashboardMetrics, dashboard_metrics

from .last_scrapes import TTL_SECONDS, LastScrape
from .last_scrapes import _client as client

log = structlog.get_logger(__name__)

#: So many routes, handlers, roles and kinds of operation are kept, the busiest first.
MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """What a service did in the ``seconds`` before ``at``."""

    at: datetime
    seconds: float
    metrics: DashboardMetrics


def _key(service: str) -> str:
    return f"zantara:samples:shown:{service}"


def keep(before: Mapping[str, LastScrape], after: Mapping[str, LastScrape]) -> None:
    """Compute and keep the figures of every service that was scraped twice. Without Redis nothing is kept."""
    found = {}
    for name, last in after.items():
        earlier = before.get(name)
        seconds = (last.at - earlier.at).total_seconds() if earlier else 0.0
        if earlier is None or seconds > TTL_SECONDS:
            continue
        try:
            metrics = dashboard_metrics(earlier.scrape, last.scrape, seconds)
        except Refused:  # the clock was put back
            continue
        content = {"at": last.at.timestamp(), "seconds": seconds, "metrics": _shortened(metrics)}
        found[_key(name)] = json.dumps(content, separators=(",", ":"))
    try:
        with client().pipeline(transaction=False) as pipe:
            for key, text in found.items():
                pipe.set(key, text, ex=TTL_SECONDS)
            pipe.execute()
    except redis.RedisError as error:
        log.warning("figures_not_kept", error=type(error).__name__)


def _shortened(metrics: DashboardMetrics) -> dict[str, Any]:
    return {
        part: {
            name: value[:MOST_NAMED] if isinstance(value, list) else value
            for name, value in cast("Mapping[str, Any]", figures).items()
        }
        for part, figures in metrics.items()
    }


def latest_metrics(services: Iterable[str]) -> dict[str, Shown]:
    """The newest figures by service, in one round trip; a service without any in the last 90 s is left out."""
    names = list(services)
    try:
        found = cast("list[bytes | None]", client().mget([_key(name) for name in names])) if names else []
    except (redis.RedisError, OSError):
        return {}
    shown = {}
    for name, text in zip(names, found, strict=True):
        if text is None:
            continue
        try:
            content = json.loads(text)
            shown[name] = Shown(
                datetime.fromtimestamp(content["at"], UTC), float(content["seconds"]), content["metrics"]
            )
        except (ValueError, KeyError, TypeError):  # of another version of this code
            continue
    return shown
