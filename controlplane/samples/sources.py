"""The services that are sampled, and one scrape of all of them at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import httpx2
from django.conf import settings

from controlplane.kernel.errors import ConfigurationError, Refused
from controlplane.monitoring.exposition import metrics_token
from controlplane.monitoring.parsing import Exposition, parse

from .figures import METRICS

#: What one service may take, from connecting to its last byte.
DEADLINE_SECONDS = 2.0
#: Far above what the cap on series lets a service serve.
LARGEST_BYTES = 16 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Source:
    """A service and where its metrics are."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a service answered. ``scrape`` is None where it did not; ``why`` then says so, without a secret."""

    source: Source
    scrape: Exposition | None
    why: str = ""


def parse_sources(lines: Sequence[str]) -> tuple[Source, ...]:
    """Read ``name=url`` entries. ``/metrics`` is added to an address without a path. ConfigurationError otherwise."""
    sources = [_source(line) for line in lines]
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ConfigurationError("ZANTARA_SERVICES names a service twice.", remedy="Give each service its own name.")
    return tuple(sources)


def _source(line: str) -> Source:
    name, _, address = line.partition("=")
    name, parts = name.strip(), urlsplit(address.strip())
    remedy = "Write name=url, for example sample=http://127.0.0.1:3000."
    if not _NAME.fullmatch(name):
        raise ConfigurationError("ZANTARA_SERVICES holds an entry without a name that can be used.", remedy=remedy)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"ZANTARA_SERVICES has no http address for {name!r}.", remedy=remedy)
    if parts.username or parts.password:
        raise ConfigurationError(
            f"ZANTARA_SERVICES has a password in the address of {name!r}.", remedy="Set ZANTARA_METRICS_TOKEN instead."
        )
    path = parts.path if parts.path.strip("/") else "/metrics"
    return Source(name, urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")))


def sources() -> tuple[Source, ...]:
    """The services of ``ZANTARA_SERVICES``."""
    return parse_sources(settings.ZANTARA_SERVICES)


def scrape_all(asked: Sequence[Source]) -> list[Scrape]:
    """Scrape all at once; takes at most ``DEADLINE_SECONDS`` and never raises for a service's fault."""
    return asyncio.run(_scrape_all(asked)) if asked else []


async def _scrape_all(asked: Sequence[Source]) -> list[Scrape]:
    # no proxy from the environment, no redirect: the token goes to the services that are named and nowhere else
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=DEADLINE_SECONDS) as client:
        return list(await asyncio.gather(*(_scrape(client, source) for source in asked)))


async def _scrape(client: httpx2.AsyncClient, source: Source) -> Scrape:
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            text = await _read(client, source)
        return Scrape(source, parse(text, only=METRICS))
    except TimeoutError:
        return Scrape(source, None, f"did not answer within {DEADLINE_SECONDS:g} s")
    except Refused as problem:
        return Scrape(source, None, problem.message)
    except httpx2.HTTPError as error:  # its text names addresses, never the token
        return Scrape(source, None, f"{type(error).__name__}")


async def _read(client: httpx2.AsyncClient, source: Source) -> str:
    content = bytearray()
    async with client.stream("GET", source.url, headers=_headers()) as answer:
        if answer.status_code != 200:
            raise Refused(f"It answered {answer.status_code} instead of its metrics.")
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > LARGEST_BYTES:
                raise Refused(f"Its metrics are larger than {LARGEST_BYTES} bytes.")
    return content.decode("utf-8", "replace")


def _headers() -> Mapping[str, str]:
    headers = {"Accept": "text/plain; version=0.0.4", "User-Agent": "zantara-samples"}
    token = metrics_token()
    return headers | ({"Authorization": f"Bearer {token.decode()}"} if token else {})
