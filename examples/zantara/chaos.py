"""Breakage on request: errors, latency and leaked memory, for one release, in all of its processes.

The order lies in Redis under the release's name for an hour at most. Each process reads it ten times a second
in a thread of its own, so that no request ever waits for it and memory is leaked, and given back, by processes
that nobody calls. With Redis away a process goes on with the last order it read, until that would have expired.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import redis
import structlog
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from controlplane.kernel.errors import Refused

from . import redis_store
from .config import release
from .params import Params

LONGEST_SECONDS = 3600
MOST_LATENCY_MS = 60_000
MOST_LEAK_MB = 1024
POLL_SECONDS = 0.1
#: After this time every process that reaches Redis has read a new order (two polls and some scheduling).
SPREAD_SECONDS = 0.3
#: Whoever steers chaos, or asks whether the process lives, is never its victim.
SPARED_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics", "/_chaos"})

log = structlog.get_logger(__name__)


class ChaosError(Exception):
    """The fault that was ordered. Not a ZantaraError: nobody is meant to map it to a tidy answer."""


@dataclass(frozen=True, slots=True)
class Chaos:
    """What is ordered: the share of requests that fail (0 to 1), what each waits, and what each process leaks."""

    error_rate: float = 0.0
    latency_ms: float = 0.0
    leak_mb: int = 0

    @classmethod
    def parse(cls, members: Mapping[str, Any]) -> Chaos:
        """A complete order (what is left out is 0); Refused names what is out of range or unknown."""
        params = Params(members)
        params.only("error_rate", "latency_ms", "leak_mb")
        return cls(
            error_rate=params.number("error_rate", 0.0, least=0.0, most=1.0),
            latency_ms=params.number("latency_ms", 0.0, least=0.0, most=MOST_LATENCY_MS),
            leak_mb=params.integer("leak_mb", 0, least=0, most=MOST_LEAK_MB),
        )


CALM = Chaos()


class ChaosOrders:
    """The order for one release, in Redis. ``read`` raises redis.RedisError; the others Unavailable."""

    def __init__(self, client: redis.Redis, release: str) -> None:
        self._redis, self._key = client, f"zantara:chaos:{release}"

    def give(self, chaos: Chaos) -> None:
        with redis_store.answering():
            self._redis.set(self._key, json.dumps(asdict(chaos)), ex=LONGEST_SECONDS)

    def clear(self) -> None:
        with redis_store.answering():
            self._redis.delete(self._key)

    def show(self) -> tuple[Chaos, int]:
        """The order and the seconds that are left of it (0 without one)."""
        with redis_store.answering():
            return self.read()

    def read(self) -> tuple[Chaos, int]:
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(self._key)
            pipe.ttl(self._key)
            text, left = pipe.execute()
        if text is None:
            return CALM, 0
        try:
            members = json.loads(text)
            if isinstance(members, dict):
                return Chaos.parse(members), max(0, int(left))
        except (Refused, ValueError):
            pass
        return CALM, 0  # whoever wrote that key, it was not us


class Obedience:
    """What this process does about the order: ``chaos`` is in force here; ``follow`` leaks or frees memory."""

    def __init__(self, orders: ChaosOrders) -> None:
        self._orders = orders
        self.chaos = CALM
        self._ends_at = 0.0
        self._leaked = bytearray()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="chaos", daemon=True).start()

    def follow(self) -> None:
        """Read the order once and do as it says."""
        try:
            chaos, left = self._orders.read()
            self._ends_at = time.monotonic() + left
        except redis.RedisError:
            chaos = self.chaos if time.monotonic() < self._ends_at else CALM
        if chaos != self.chaos:
            log.warning("chaos_changed", **asdict(chaos))
        if chaos.leak_mb * 2**20 != len(self._leaked):
            self._leaked = bytearray()  # given back first: the two must not lie beside each other
            self._leaked = bytearray(b"\x01") * (chaos.leak_mb * 2**20)  # written to, and so really resident
        self.chaos = chaos

    def _watch(self) -> None:
        while True:
            try:
                self.follow()
            except MemoryError:
                log.error("chaos_leak_impossible")
            time.sleep(POLL_SECONDS)


@lru_cache(maxsize=1)
def orders() -> ChaosOrders:
    """The orders for this process's release."""
    return ChaosOrders(redis_store.client(), release())


class ChaosMiddleware:
    """Makes requests late, or fail, as ordered. Starts this process's watching thread when it is loaded."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response
        self._obedience = Obedience(orders())
        self._obedience.start()

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        chaos = self._obedience.chaos
        if chaos is not CALM and request.path not in SPARED_PATHS:
            if chaos.latency_ms:
                time.sleep(chaos.latency_ms / 1000)
            if random.random() < chaos.error_rate:  # noqa: S311  (a dice throw, not a secret)
                raise ChaosError(f"one of the {chaos.error_rate:.0%} of requests that were told to fail")
        return self._get_response(request)
