"""What the judge remembers of a deployment, and how one tick changes it. Pure.

Counts of neighbouring ticks are put together until both releases have answered something, because a tick in which one
of them had no request says nothing: at one request a second that is every other tick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from deployments.stages import FULL

from .sequential import Evidence, Trials, compare, compare_alone, highest_share
from .types import Counts, Sample

#: Ticks that are put together at most, while one of the releases has no request.
MOST_OPEN_TICKS = 15
#: How much of what was recent stays so at the next tick: a mean age of ten ticks.
RECENT = 0.9
#: Instances that have just got more traffic are cold: for so long their slow requests are not held against them.
WARM_UP_SECONDS = 20.0
#: The share of errors that a release may have where nothing is known of another one.
ASSUMED_SHARE = 0.05
#: Standard deviations of chance that the error budget grants.
SCATTER = 4.0
#: So many requests make a recent share worth noting.
ENOUGH_RECENT = 50


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests that a release answered itself; ``timed`` are those whose time counts, ``slow`` of these."""

    requests: float = 0
    errors: float = 0
    timed: float = 0
    slow: float = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests, self.errors + other.errors, self.timed + other.timed, self.slow + other.slow
        )

    def faded(self) -> Tally:
        return Tally(self.requests * RECENT, self.errors * RECENT, self.timed * RECENT, self.slow * RECENT)

    @property
    def failing(self) -> Trials:
        return Trials(int(self.requests), int(self.errors))

    @property
    def slowing(self) -> Trials:
        return Trials(int(self.timed), int(self.slow))

    @property
    def error_share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    @property
    def slow_share(self) -> float:
        return self.slow / self.timed if self.timed else 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Errors of the new release beyond what the old one's rate explains. ``used`` grants chance its scatter."""

    excess: float
    used: float


@dataclass(frozen=True, slots=True)
class Memory:
    """All of it. ``new`` and ``old`` since the beginning, ``stage`` the new release's in the present stage.

    ``expected``, ``variance``: errors that the new release would have at the old one's rate of the same ticks.
    ``alone`` are the new release's requests without a counterpart, ``judged`` its errors in all that was compared.
    """

    errors: Evidence = field(default_factory=Evidence)
    slow: Evidence = field(default_factory=Evidence)
    new: Tally = Tally()
    old: Tally = Tally()
    stage_index: int = -1
    stage: Tally = Tally()
    recent_new: Tally = Tally()
    recent_old: Tally = Tally()
    worst_errors: float = 0.0
    worst_slow: float = 0.0
    open_new: Tally = Tally()
    open_old: Tally = Tally()
    open_ticks: int = 0
    permille: int = 0
    share_since: str = ""
    expected: float = 0.0
    variance: float = 0.0
    alone: float = 0
    judged: float = 0

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name, value in data.items():
            if isinstance(value, Evidence):
                data[name] = value.to_json()
            elif isinstance(value, Tally):
                data[name] = asdict(value)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Memory:
        """The memory again; an empty one for an empty mapping. Fields that are not known are passed over."""
        values: dict[str, Any] = {}
        for name, item in cls.__dataclass_fields__.items():
            if name not in data:
                continue
            value = data[name]
            values[name] = (
                Evidence.from_json(value) if item.type == "Evidence"
                else Tally(**value) if item.type == "Tally"
                else value
            )  # fmt: skip
        return cls(**values)

    @property
    def usual_errors(self) -> float:
        """The highest share of errors that the old release accounts for, once it has no traffic to compare with."""
        if not self.old.requests:
            return ASSUMED_SHARE
        return max(ASSUMED_SHARE, self.worst_errors, highest_share(self.old.failing))

    @property
    def usual_slow(self) -> float | None:
        """The same of slow requests. None without an old release: what is slow there, nobody knows."""
        if not self.old.timed:
            return None
        return max(ASSUMED_SHARE, self.worst_slow, highest_share(self.old.slowing))

    @property
    def budget(self) -> Budget:
        """What has been used of the error budget."""
        share = max(self.worst_errors, self.old.error_share) if self.old.requests else ASSUMED_SHARE
        explained = self.alone * share
        scatter = explained * (1 + (self.alone / self.old.requests if self.old.requests else 0))
        excess = self.judged - self.expected - explained
        return Budget(excess, max(0.0, excess - SCATTER * math.sqrt(self.variance + scatter)))


def has_counts(sample: Sample) -> bool:
    """Whether the tick saw enough to compare: both releases, or the new one where it has all the traffic."""
    return sample.new is not None and (sample.old is not None or sample.permille >= FULL)


def fold(memory: Memory, sample: Sample, *, margin: float) -> Memory:
    """The memory after one more tick. A tick without counts changes nothing."""
    counted_before = sample.permille == 0 and sample.old is not None
    if not has_counts(sample) and not counted_before:
        return memory
    if sample.permille != memory.permille or not memory.share_since or sample.at < _time(memory.share_since):
        memory = replace(_close(memory, margin), permille=sample.permille, share_since=sample.at.isoformat())
    warm = sample.permille == 0 or (sample.at - _time(memory.share_since)).total_seconds() >= WARM_UP_SECONDS
    new, old = _tally(sample.new, timed=warm), _tally(sample.old, timed=warm)
    if not new.requests and not old.requests and sample.stage_index == memory.stage_index:
        return memory
    recent_old = memory.recent_old.faded() + old
    noted = recent_old.requests >= ENOUGH_RECENT
    memory = replace(
        memory,
        new=memory.new + new,
        old=memory.old + old,
        stage_index=sample.stage_index,
        stage=(memory.stage if sample.stage_index == memory.stage_index else Tally()) + new,
        recent_new=memory.recent_new.faded() + new,
        recent_old=recent_old,
        worst_errors=max(memory.worst_errors, recent_old.error_share) if noted else memory.worst_errors,
        worst_slow=max(memory.worst_slow, recent_old.slow_share) if noted else memory.worst_slow,
        open_new=memory.open_new + new,
        open_old=memory.open_old + old,
        open_ticks=memory.open_ticks + 1,
    )
    both = memory.open_new.requests and memory.open_old.requests
    if sample.permille >= FULL or both or memory.open_ticks >= MOST_OPEN_TICKS:
        memory = _close(memory, margin)
    return memory


def _close(memory: Memory, margin: float) -> Memory:
    """Weigh what was put together, and begin anew."""
    if not memory.open_ticks:
        return memory
    new, old = memory.open_new, memory.open_old
    memory = replace(
        memory, open_new=Tally(), open_old=Tally(), open_ticks=0, judged=memory.judged + new.errors
    )  # fmt: skip
    if memory.permille >= FULL or not old.requests:
        return _weigh_alone(memory, new, margin)
    ratio = new.requests / old.requests
    return replace(
        memory,
        errors=compare(memory.errors, new.failing, old.failing, margin=margin),
        slow=compare(memory.slow, new.slowing, old.slowing, margin=margin),
        expected=memory.expected + ratio * old.errors,
        variance=memory.variance + ratio * (1 + ratio) * old.errors,
    )


def _weigh_alone(memory: Memory, new: Tally, margin: float) -> Memory:
    """Without the old release's requests: against its rate, but only where it has none because it has no share."""
    memory = replace(memory, alone=memory.alone + new.requests)
    if memory.permille < FULL:
        return memory
    errors = compare_alone(memory.errors, new.failing, reference=memory.usual_errors, margin=margin)
    usual_slow, slow = memory.usual_slow, memory.slow
    if usual_slow is not None:
        slow = compare_alone(slow, new.slowing, reference=usual_slow, margin=margin)
    return replace(memory, errors=errors, slow=slow)


def _tally(counts: Counts | None, *, timed: bool) -> Tally:
    """What the release answered itself: our own sheds and limits never reached it."""
    if counts is None:
        return Tally()
    requests = max(0, counts.requests - counts.shed - counts.limited)
    return Tally(
        requests,
        min(max(0, counts.errors), requests),
        requests if timed else 0,
        min(max(0, counts.slow), requests) if timed else 0,
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
