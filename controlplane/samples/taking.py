"""One tick: ask each service once, write one row for each, roll up what is complete, delete what is old."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Max

from controlplane.kernel import clock
from controlplane.monitoring.parsing import Exposition

from . import last_scrapes, shown
from .figures import figures_of, gauges_of, roll_up
from .last_scrapes import LastScrape
from .models import Sample
from .sources import Scrape, Source, scrape_all, sources

log = structlog.get_logger(__name__)

FINE, COARSE = Sample.Resolution.FINE.value, Sample.Resolution.COARSE.value
KEEP_FINE, KEEP_COARSE = timedelta(hours=48), timedelta(days=90)
#: A tick that runs late still belongs into its five minutes.
GRACE = timedelta(seconds=30)
#: How early a tick may come, and how long after the one before.
EARLY, NEARLY_A_TICK = timedelta(seconds=2), timedelta(seconds=10)
#: Bounds of one run: 12 windows are an hour, and 500 rows a tick outpace what ticks write by far.
MOST_WINDOWS, MOST_DELETED = 12, 500
_ROLLED_UP = (
    "samples", "samples_up", "seconds", "requests", "requests_per_second", "error_share", "sheds_per_second",
    "denied_per_second", "jwt_per_second", "jwt_errors_per_second", "vector_per_second", "vector_errors_per_second",
    "in_flight", "connections", "memory_percent", "roles", "routes", "handlers", "buckets",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tick:
    """What one run did: services that answered, that did not, windows rolled up, rows deleted."""

    up: tuple[str, ...]
    down: tuple[str, ...]
    rolled_up: int
    deleted: int


def floor(at: datetime, seconds: int) -> datetime:
    """The beginning of the span of so many seconds, counted from 1970, that ``at`` is in."""
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)


def take_samples(now: datetime | None = None, asked: Sequence[Source] | None = None) -> Tick:
    """Take the samples of this tick. A second run for the same tick asks nobody and writes nothing."""
    now = now or clock.now()
    asked = sources() if asked is None else asked
    last = last_scrapes.read(source.name for source in asked)
    times = _times(now, asked, last)
    scrapes = scrape_all([source for source in asked if source.name in times])
    finished = max(now, clock.now())
    fresh = {}
    for scrape in scrapes:
        name = scrape.source.name
        if _write(scrape, last.get(name), times[name], finished) and scrape.scrape is not None:
            fresh[name] = LastScrape(finished, scrape.scrape)
    last_scrapes.write(fresh)
    shown.keep(last, fresh)
    names = [source.name for source in asked]
    return Tick(
        up=tuple(scrape.source.name for scrape in scrapes if scrape.scrape is not None),
        down=tuple(scrape.source.name for scrape in scrapes if scrape.scrape is None),
        rolled_up=sum(roll_up_service(name, now) for name in names),
        deleted=prune(now),
    )


def _times(now: datetime, asked: Sequence[Source], last: Mapping[str, LastScrape]) -> dict[str, datetime]:
    """When the row of each service begins; without those whose row is there already.

    A tick that comes a moment early would fall into the 15 s of the one before, and leave a hole after it: if
    that one is nearly 15 s old, the row is the next span's.
    """
    at = floor(now, FINE)
    following = at + timedelta(seconds=FINE)
    there = set(Sample.objects.filter(resolution=FINE, at__in=(at, following)).values_list("service", "at"))
    times = {}
    for source in asked:
        name, before = source.name, last.get(source.name)
        is_early = before is not None and now - before.at >= NEARLY_A_TICK and following - now <= EARLY
        if (name, at) not in there:
            times[name] = at
        elif is_early and (name, following) not in there:
            times[name] = following
    return times


def _write(scrape: Scrape, before: LastScrape | None, at: datetime, finished: datetime) -> bool:
    """Write the row; False if another worker has written it, whose scrape then counts."""
    row = Sample(service=scrape.source.name, resolution=FINE, at=at, up=scrape.scrape is not None)
    if scrape.scrape is None:
        log.info("service_not_sampled", service=scrape.source.name, why=scrape.why)
    else:
        row.samples_up = 1
        for name, value in _fields(scrape.scrape, before, finished).items():
            setattr(row, name, value)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return False
    return True


def _fields(scrape: Exposition, before: LastScrape | None, finished: datetime) -> dict[str, object]:
    seconds = (finished - before.at).total_seconds() if before else 0.0
    # A clock that was put back, or a scrape from before a long gap: the series begins anew.
    if before is None or not 0 < seconds <= last_scrapes.TTL_SECONDS:
        return gauges_of(scrape)
    return figures_of(before.scrape, scrape, seconds)


def roll_up_service(service: str, now: datetime) -> int:
    """Write the 5-minute rows that can be written, the oldest first; the number of them."""
    rows = Sample.objects.filter(service=service)
    latest = rows.filter(resolution=COARSE).aggregate(Max("at"))["at__max"]
    begin = latest + timedelta(seconds=COARSE) if latest else now - KEEP_FINE
    end = floor(now - GRACE, COARSE)
    if begin >= end:
        return 0
    first = rows.filter(resolution=FINE, at__gte=begin, at__lt=end).order_by("at").values_list("at", flat=True).first()
    if first is None:
        return 0
    begin = floor(first, COARSE)
    end = min(end, begin + MOST_WINDOWS * timedelta(seconds=COARSE))
    fine = rows.filter(resolution=FINE, at__gte=begin, at__lt=end).order_by("at").values("at", *_ROLLED_UP)
    windows: dict[datetime, list[dict[str, object]]] = {}
    for row in fine:
        windows.setdefault(floor(row["at"], COARSE), []).append(dict(row))
    coarse = [Sample(service=service, resolution=COARSE, at=at, **roll_up(own)) for at, own in windows.items()]
    Sample.objects.bulk_create(coarse, ignore_conflicts=True)  # a second worker may have been faster
    return len(coarse)


def prune(now: datetime) -> int:
    """Delete a batch of the rows whose time is over; the number of them."""
    deleted = 0
    for resolution, keep in ((FINE, KEEP_FINE), (COARSE, KEEP_COARSE)):
        old = Sample.objects.filter(resolution=resolution, at__lt=now - keep)
        batch = list(old.order_by("at").values_list("pk", flat=True)[:MOST_DELETED])
        if batch:
            deleted += Sample.objects.filter(pk__in=batch).delete()[0]
    return deleted
