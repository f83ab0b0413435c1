"""What a handler is, and the one registry of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from controlplane.kernel.registry import Registry
from examples.zantara.params import Params

Endpoint = Literal["unified", "collective", "ecosystem"]
ENDPOINTS: tuple[Endpoint, ...] = ("unified", "collective", "ecosystem")


@dataclass(frozen=True)
class Handler:
    """Runs under the name ``key`` on its ``endpoints``; ``run`` raises Refused or Unavailable."""

    key: str
    summary: str
    run: Callable[[Params], Any]
    endpoints: frozenset[Endpoint] = frozenset(ENDPOINTS)


handlers: Registry[Handler] = Registry("handler")


def add(key: str, summary: str, *endpoints: Endpoint) -> Callable[[Callable[[Params], Any]], Callable[[Params], Any]]:
    """Register a function as the handler ``key``, on all endpoints unless some are named."""

    def decorate(run: Callable[[Params], Any]) -> Callable[[Params], Any]:
        handlers.add(key, Handler(key, summary, run, frozenset(endpoints or ENDPOINTS)))
        return run

    return decorate


def available(endpoint: str) -> list[Handler]:
    """The handlers of an endpoint, in the order in which they were registered."""
    return [handler for handler in handlers if endpoint in handler.endpoints]
