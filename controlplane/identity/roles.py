"""Which of a caller's roles counts.

A *role* is what limits and shedding speak of. Its priority comes from whoever manages roles (the rate-limit
profiles) through a port; without one the seed's order holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import structlog

log = structlog.get_logger(__name__)

#: Anonymous callers, and everybody without a role of his own.
DEFAULT_ROLE = "default"

#: The seed's roles, highest first: of several roles the one with the highest number counts.
SEED_PRIORITIES: Mapping[str, int] = MappingProxyType(
    {"AI Bridge/Tech Lead": 50, "CEO": 40, "Setup Team Lead": 30, "External": 20, DEFAULT_ROLE: 10}
)

RoleSource = Callable[[], Mapping[str, int]]
_source: RoleSource | None = None


def set_role_source(source: RoleSource | None) -> None:
    """Name who knows the roles. ``source`` is called on request paths: it caches its own answer and is quick.

    None goes back to the seed.
    """
    global _source  # noqa: PLW0603  (one port per process, filled once at start)
    _source = source


def priorities() -> Mapping[str, int]:
    """Role name -> priority, higher counts more. The seed's where there is no source or it fails."""
    if _source is None:
        return SEED_PRIORITIES
    try:
        return _source()
    except Exception:  # The source is another part's: whatever breaks there, callers keep an identity.
        log.warning("role_source_failed", exc_info=True)
        return SEED_PRIORITIES


def best_role(names: Iterable[str]) -> str:
    """The known role with the highest priority; else the first name, unknown as it is; else ``default``."""
    names = tuple(names)
    if not names:
        return DEFAULT_ROLE
    known = priorities()
    # max() takes the first of equals, so equal priorities are settled by the caller's own order.
    return max((name for name in names if name in known), key=lambda name: known[name], default=names[0])


def known_role(name: str) -> str:
    """``name`` if it is a known role, else ``default``: for labels, whose number must stay bounded."""
    return name if name in priorities() else DEFAULT_ROLE
