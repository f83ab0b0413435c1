"""How many instances of two releases there are to be while one takes over from the other. Pure.

The coming release gets its capacity as surge, before the going one leaves: ``max(1, ceil(N*w))`` instances for the
share ``w``. The going release keeps all of its N until the coming one is to have everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.stages import FULL

from .types import InstanceView


@dataclass(frozen=True, slots=True)
class Exchange:
    """Instances wanted of the coming and of the going release, and the share that the coming one can carry now."""

    coming: int
    going: int
    permille: int


def canary(instances: int, permille: int, max_surge: int = 0) -> int:
    """Instances of a release with that share. 0 only where nothing is wanted, or no share is given."""
    if instances <= 0 or permille <= 0:
        return 0
    wanted = max(1, -(-instances * permille // FULL))
    return min(wanted, max_surge) if max_surge else wanted


def most_instances(instances: int, max_surge: int) -> int:
    """So many may there be at once, of all releases together."""
    return instances + (max_surge or instances)


def rolls(instances: int, permille: int, max_surge: int) -> bool:
    """Whether the coming release cannot stand beside the going one whole: they are exchanged a few at a time."""
    return permille >= FULL and 0 < max_surge < instances


def exchange(
    instances: int,
    max_surge: int,
    permille: int,
    *,
    ready: int,
    there: int,
    others: Sequence[InstanceView],
    effective: int,
) -> Exchange:
    """What is wanted now of a release that is to have ``permille``.

    ``ready`` and ``there`` are the coming release's, ``others`` everything else that is there (what drains, too),
    ``effective`` the coming release's share as the edge last showed it. Never fewer than ``instances`` are able to
    serve: one that goes is given up only once its part of the traffic is carried, and confirmed, elsewhere.
    """
    if instances <= 0:
        return Exchange(0, 0, permille)
    if not rolls(instances, permille, max_surge):
        wanted = canary(instances, permille, max_surge)
        return Exchange(wanted, instances, permille if ready >= wanted else 0)
    room = max(0, most_instances(instances, max_surge) - len(others))
    coming = max(min(instances, room), min(there, instances))
    still = instances - round(instances * effective / FULL)  # to the nearest: shares are whole permille
    going = max(still, instances - ready)
    going = min(going, len([one for one in others if not one.leaves]))
    return Exchange(coming, going, min(permille, FULL * ready // instances))
