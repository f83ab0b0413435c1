"""When a child that died is started again, and when the stack gives up: a pure function of its deaths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: The wait before the first restart, doubled at each further death.
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0
#: A child that lived this long was well: the next wait is the first one again.
HEALTHY_AFTER_SECONDS = 30.0
#: So many deaths within so many seconds are no accident any more.
DEATHS_TO_GIVE_UP = 5
GIVE_UP_WINDOW_SECONDS = 60.0


@dataclass(frozen=True)
class Death:
    """One death of a child: when (monotonic seconds), and how long it had lived."""

    at: float
    lived_seconds: float


@dataclass(frozen=True)
class Restart:
    """Start the child again after this wait."""

    after_seconds: float


@dataclass(frozen=True)
class GiveUp:
    """Stop the stack; ``deaths`` of them were counted within the window."""

    deaths: int


def after_death(deaths: Sequence[Death], now: float) -> Restart | GiveUp:
    """What to do after the last of ``deaths`` (oldest first, at least one), at the time ``now``."""
    recent = sum(1 for death in deaths if now - death.at < GIVE_UP_WINDOW_SECONDS)
    if recent >= DEATHS_TO_GIVE_UP:
        return GiveUp(recent)
    doublings = 0
    for death in reversed(deaths):
        if death.lived_seconds >= HEALTHY_AFTER_SECONDS:
            break
        doublings += 1
    return Restart(min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** max(0, doublings - 1)))
