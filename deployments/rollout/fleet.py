"""From how many instances are wanted to what is done to each of them. Pure; the same in a rollout and between two.

An instance that is not wanted first drains, then stops, then is forgotten; one that is wanted and ended is started
again, ever later the more often it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .capacity import most_instances
from .policy import RolloutPolicy
from .types import Drain, EdgeView, Effect, Ensure, Forget, InstanceView, Stop, Undrain

LONGEST_BACKOFF_SECONDS = 60.0


def backoff_seconds(restarts: int) -> float:
    """How long after its last start an instance that ended is started again: at once, then 2, 4, 8 … 60 s."""
    return 0.0 if restarts <= 0 else min(LONGEST_BACKOFF_SECONDS, float(2 ** min(restarts, 6)))


def ready(instances: Sequence[InstanceView], release: str, min_ready_seconds: float) -> list[InstanceView]:
    """Those of the release that may be given traffic: up for long enough, and not on their way out."""
    return [
        one
        for one in instances
        if one.release == release
        and one.running
        and not one.leaves
        and one.ready_seconds is not None
        and one.ready_seconds >= min_ready_seconds
    ]


def plan(
    wanted: Mapping[str, int], instances: Sequence[InstanceView], edge: EdgeView | None, policy: RolloutPolicy
) -> tuple[Effect, ...]:
    """What brings the instances closer to ``wanted`` (release -> how many; a release that is not named: none)."""
    room = most_instances(policy.instances, policy.max_surge) - len(instances)
    effects: list[Effect] = []
    for release in sorted({*wanted, *(one.release for one in instances)}):
        mine = [one for one in instances if one.release == release]
        for effect in _of_release(release, wanted.get(release, 0), mine, edge, policy):
            if isinstance(effect, Ensure) and not any(one.slot == effect.slot for one in mine):
                if room <= 0:
                    continue
                room -= 1
            effects.append(effect)
    return tuple(effects)


def _of_release(
    release: str, wanted: int, mine: Sequence[InstanceView], edge: EdgeView | None, policy: RolloutPolicy
) -> Iterator[Effect]:
    staying = sorted((one for one in mine if not one.leaves), key=_worth)
    kept, surplus = staying[:wanted], staying[wanted:]
    back = [one for one in mine if one.draining_seconds is not None and one.stopping_seconds is None and one.running]
    back = sorted(back, key=_worth)[: max(0, wanted - len(kept))]
    for one in back:
        yield Undrain(one.name)
    for one in kept:
        if not one.running and (one.started_seconds is None or one.started_seconds >= backoff_seconds(one.restarts)):
            yield Ensure(release, one.slot, again=True)
    taken, slot = {one.slot for one in mine}, 0
    for _ in range(wanted - len(kept) - len(back)):
        while slot in taken:
            slot += 1
        taken.add(slot)
        yield Ensure(release, slot)
    for one in surplus:
        yield Drain(one.name)
    for one in mine:
        if one.leaves and one not in back:
            yield from _take_away(one, edge, policy)


def _worth(one: InstanceView) -> tuple[float, bool, int]:
    """The first are kept: those that are ready, the longest first (to the minute), then those that run, the lowest
    slots."""
    ready_seconds = -1.0 if one.ready_seconds is None or not one.running else min(one.ready_seconds, 60.0)
    return (-ready_seconds, not one.running, one.slot)


def _take_away(one: InstanceView, edge: EdgeView | None, policy: RolloutPolicy) -> Iterator[Effect]:
    if not one.running:
        yield Forget(one.name)
    elif one.stopping_seconds is not None or _is_drained(one, edge, policy):
        yield Stop(one.name)


def _is_drained(one: InstanceView, edge: EdgeView | None, policy: RolloutPolicy) -> bool:
    drained = one.draining_seconds or 0.0
    if not policy.has_edge or drained >= policy.drain_timeout_seconds:
        return True
    # What the proxy counts is of the whole release: while others of it serve, only the time is left to go by. One
    # second lets a request that was just handed over be counted.
    idle = edge is not None and edge.current and edge.active.get(one.release) == 0
    return idle and not (edge and edge.permille.get(one.release)) and drained >= 1.0
