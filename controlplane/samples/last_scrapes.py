"""The last scrape of each service, in Redis: whichever worker comes next goes on from it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import redis
import structlog
from django.conf import settings

from controlplane.monitoring.parsing import Exposition

log = structlog.get_logger(__name__)

#: A difference over more than this says little about the last 15 s; the series then begins anew.
TTL_SECONDS = 90
_TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LastScrape:
    """What a service's counters said, and when."""

    at: datetime
    scrape: Exposition


@lru_cache(maxsize=4)
def _connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS)


def _client() -> redis.Redis:
    return _connect(settings.ZANTARA_REDIS_URL)


def _key(service: str) -> str:
    return f"zantara:samples:last:{service}"


def read(services: Iterable[str]) -> dict[str, LastScrape]:
    """The last scrapes that are known, in one round trip; none where Redis does not answer or holds something else."""
    names = list(services)
    try:
        found = _client().mget([_key(name) for name in names]) if names else []
    except redis.RedisError as error:
        log.warning("last_scrapes_not_read", error=type(error).__name__)
        return {}
    last = {}
    for name, content in zip(names, found, strict=True):
        scrape = _unpacked(bytes(content)) if isinstance(content, bytes) else None
        if scrape is not None:
            last[name] = scrape
    return last


def write(scrapes: Mapping[str, LastScrape]) -> None:
    """Keep them for the next tick, in one round trip. Without Redis the next rows have no rates; nothing else."""
    if not scrapes:
        return
    try:
        with _client().pipeline(transaction=False) as pipe:
            for name, last in scrapes.items():
                pipe.set(_key(name), _packed(last), ex=TTL_SECONDS)
            pipe.execute()
    except redis.RedisError as error:
        log.warning("last_scrapes_not_written", error=type(error).__name__)


def _packed(last: LastScrape) -> bytes:
    series = {name: [[own, value] for own, value in found.items()] for name, found in last.scrape.series.items()}
    content = {"at": last.at.timestamp(), "series": series, "kinds": dict(last.scrape.kinds)}
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 1)


def _unpacked(content: bytes) -> LastScrape | None:
    try:
        read = json.loads(zlib.decompress(content))
        series = {
            name: {tuple((label, text) for label, text in own): float(value) for own, value in found}
            for name, found in read["series"].items()
        }
        return LastScrape(datetime.fromtimestamp(read["at"], UTC), Exposition(series, read["kinds"]))
    except (ValueError, KeyError, TypeError, zlib.error):  # of another version of this code
        return None
