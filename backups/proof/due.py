"""Which proofs are due, and which parts a sample takes. Pure.

Daily    every set: its parts are there (L0) and, spread over ``verify_full_days``, unchanged (L1)
Weekly   the newest set of each plan is read to its end (L2)
Drills   (L3) have a schedule of their own, or follow the backup
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

CHECK_EVERY = timedelta(hours=24)
READ_EVERY = timedelta(days=7)
#: What could not be learned (a store that was away) is asked again after this time.
ASK_AGAIN_AFTER = timedelta(hours=1)
#: The same of what reads and decrypts: where no identity is, on purpose, once a day is enough.
READ_AGAIN_AFTER = timedelta(hours=24)
#: A day's work begins at the same hour each day although each run takes a while.
_SLACK = timedelta(minutes=30)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class PartFacts:
    """One stored part, and when its hash was last seen to hold: at the latest when it was read back at its commit."""

    artifact: str
    name: str
    size: int
    hashed_at: datetime


@dataclass(frozen=True, slots=True)
class SetFacts:
    """A committed set; ``partial``: of some of the plan's sources only (before a restore).

    ``checked_at``: when a proof of any level last ended with knowledge; ``tried_at``: with or without. ``read_at``,
    ``read_tried_at``: the same for L2 and L3.
    """

    key: int
    committed_at: datetime
    parts: tuple[PartFacts, ...]
    checked_at: datetime | None = None
    tried_at: datetime | None = None
    read_at: datetime | None = None
    read_tried_at: datetime | None = None
    going: bool = False
    damaged: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    key: int
    level: int


def due_proofs(sets: Iterable[SetFacts], now: datetime, *, verify_full_days: int) -> list[Due]:
    """What to ask for now of the committed sets of one plan; of each set the highest level that is due.

    A set that is known to be damaged is not asked again by itself: its state is known, and somebody was told. Sets
    from the future are looked at like others.
    """
    sets = sorted(sets, key=lambda one: (one.committed_at, one.key))
    whole = [one for one in sets if not one.partial]
    newest = whole[-1] if whole else None
    plan_read_at = max((one.read_at for one in whole if one.read_at is not None), default=None)
    found = []
    for one in sets:
        if one.going or one.damaged:
            continue
        if one is newest and _is_due(plan_read_at, one.read_tried_at, READ_EVERY, READ_AGAIN_AFTER, now):
            found.append(Due(one.key, 2))
        elif _is_due(one.checked_at, one.tried_at, CHECK_EVERY, ASK_AGAIN_AFTER, now):
            found.append(Due(one.key, 1 if sample(one.parts, now, verify_full_days=verify_full_days) else 0))
    return found


def _is_due(
    known_at: datetime | None, tried_at: datetime | None, every: timedelta, again: timedelta, now: datetime
) -> bool:
    if known_at is not None and now - known_at < every - _SLACK:
        return False
    return tried_at is None or tried_at == known_at or now - tried_at >= again


def sample(parts: Sequence[PartFacts], now: datetime, *, verify_full_days: int) -> list[PartFacts]:
    """The parts to re-hash now, longest unseen first, so that each is seen every ``verify_full_days``, evenly.

    Bytes are saved up since the last sample: a single large part is read once in that time and not every day. Whatever
    would become overdue before tomorrow is taken in any case.
    """
    if not parts:
        return []
    period = timedelta(days=verify_full_days)
    oldest_first = sorted(parts, key=lambda part: (part.hashed_at, part.artifact, part.name))
    saved = sum(part.size for part in parts) * ((now - oldest_first[-1].hashed_at) / period)
    taken = []
    for part in oldest_first:
        overdue = now - part.hashed_at >= period - _DAY
        if not overdue and part.size > saved:
            break
        saved -= part.size
        taken.append(part)
    return taken
