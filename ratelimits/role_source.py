"""Which roles there are: those that profiles speak of. What ``controlplane.identity.roles`` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from django.core.exceptions import ImproperlyConfigured
from django.db import Error

from controlplane.identity.roles import DEFAULT_ROLE, SEED_PRIORITIES
from controlplane.kernel import clock

log = structlog.get_logger(__name__)

#: Seconds for which an answer is kept.
KEPT_SECONDS = 10.0
#: An operator's own role counts more than External, and never more than the seed's own teams.
OWN_ROLE_PRIORITY = 25


class RoleSource:
    """Role name -> priority, asked of the database at most every ten seconds. Never raises.

    While the database is away, and on an event loop (where it must not be asked), the last answer holds, and
    before the first one the seed's roles.
    """

    def __init__(self, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self._monotonic = monotonic
        self._known: Mapping[str, int] = SEED_PRIORITIES
        self._ask_at = float("-inf")

    def __call__(self) -> Mapping[str, int]:
        now = self._monotonic()
        if now >= self._ask_at and not _on_event_loop():
            self._ask_at = now + KEPT_SECONDS
            try:
                self._known = self._ask()
            except (Error, ImproperlyConfigured) as away:
                log.warning("role_source_unreachable", error=type(away).__name__)
        return self._known

    def forget(self) -> None:
        self._known, self._ask_at = SEED_PRIORITIES, float("-inf")

    @staticmethod
    def _ask() -> Mapping[str, int]:
        from .models import RateLimitProfile

        names = RateLimitProfile.objects.filter(active=True).order_by().values_list("role", flat=True).distinct()
        return {name: SEED_PRIORITIES.get(name, OWN_ROLE_PRIORITY) for name in [*names, DEFAULT_ROLE]}


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


role_source = RoleSource()
