"""Taking a release back, and what can be in the way of it. Pure.

The old release has its capacity first, then the traffic, then the new instances drain and stop. A way back that
does not work ends in ``rollback_blocked``, where only a person's word moves anything: it cannot loop.
"""

from __future__ import annotations

from deployments.stages import FULL

from . import notices
from .capacity import exchange, rolls
from .turn import Turn
from .types import SetSplit


def rolling_back(turn: Turn) -> None:
    if why := _blocked(turn):
        notices.blocked(turn, why)
        turn.move("rollback_blocked", why)
    elif turn.seen.instances is None:
        return
    elif turn.view.from_release is None:
        _take_first_away(turn)
    else:
        _give_back(turn, turn.view.from_release)


def _blocked(turn: Turn) -> str:
    """Why it does not go back (by itself); empty where it does."""
    view, asked, forced = turn.view, turn.memory.get("asked_back"), turn.memory.get("forced_back")
    if not view.policy.rollback_enabled and not asked:
        return "The service's rollbacks are switched off: a person must say so."
    if view.from_release is None:
        return ""
    if view.forward_only and not forced:
        return f"{view.release} is forward-only: there is no way back from it by itself."
    if turn.seen.way_back:
        return turn.seen.way_back
    return ""


def _take_first_away(turn: Turn) -> None:
    """A first release that is bad: nobody had anything before it, so it is taken away."""
    view = turn.view
    if view.policy.has_edge and turn.seen.split:
        turn.effects.append(SetSplit({}))
    elif turn.confirmed({}):
        turn.changes["requested_permille"] = 0
        turn.wanted(0, 0)
        if not turn.instances:
            _over(turn)
        return
    turn.wanted(len([one for one in turn.of(view.release) if not one.leaves]), 0)


def _give_back(turn: Turn, old: str) -> None:
    view, policy = turn.view, turn.view.policy
    back = turn.split_for(0)
    there = [one for one in turn.of(view.release) if not one.leaves]
    coming = exchange(
        policy.instances,
        policy.max_surge,
        FULL,
        ready=turn.ready(old),
        there=len([one for one in turn.of(old) if not one.leaves]),
        others=[one for one in turn.instances if one.release != old],
        effective=turn.share(old),
    )
    if turn.confirmed(back) and _all_back(turn):
        turn.changes["requested_permille"] = 0
        turn.wanted(0, policy.instances)
        if turn.of(view.release):
            return
        if turn.ready(old) >= policy.instances or turn.count("waited") >= policy.readiness_deadline_seconds:
            _over(turn)
        return
    few = rolls(policy.instances, FULL, policy.max_surge) and len(there) > policy.max_surge
    turn.wanted(min(len(there), coming.going) if few else len(there), coming.coming if few else policy.instances)
    share = _share_of_old(turn, coming.permille if few else FULL)
    if share is None:
        if turn.count("waited") >= policy.readiness_deadline_seconds:
            why = f"{old} did not become ready within {policy.readiness_deadline_seconds} s."
            notices.blocked(turn, why)
            turn.move("rollback_blocked", why)
        return
    turn.changes["requested_permille"] = FULL - share
    split = turn.split_for(FULL - share)
    if policy.has_edge and turn.seen.split != split:
        turn.effects.append(SetSplit(split))


def _all_back(turn: Turn) -> bool:
    """Without an edge no split says that the old release has everything: its instances do."""
    if turn.view.policy.has_edge:
        return True
    return turn.ready(turn.view.from_release) >= turn.view.policy.instances


def _share_of_old(turn: Turn, allowed: int) -> int | None:
    """How much the old release may get now; None while its capacity for more is not there."""
    policy, old = turn.view.policy, turn.view.from_release
    has = int(turn.seen.split.get(old or "", 0)) if policy.has_edge else turn.share(old or "")
    ready = turn.ready(old)
    if allowed < FULL:
        return allowed if allowed > has else has or None
    # What it carries now, it can carry; the rest is little where its share is large already.
    needed = max(1, policy.instances * has // FULL) if has else policy.instances
    if policy.instances == 0 or ready >= needed:
        return FULL
    return None


def _over(turn: Turn) -> None:
    view = turn.view
    record = "restored" if view.promoted_at is not None else ""
    notices.rolled_back(turn, view.error)
    back = f"{view.from_release} serves everybody again" if view.from_release else f"{view.release} was taken away"
    turn.move("rolled_back", back, record=record, finished_at=turn.now, requested_permille=0)  # type: ignore[arg-type]


def rollback_blocked(turn: Turn) -> None:
    """Everything stays as it is, and is kept alive, until a person decides."""
    view = turn.view
    if turn.seen.instances is None:
        return
    new = [one for one in turn.of(view.release) if not one.leaves]
    wanted = max(len(new), turn.canary_count()) if view.requested_permille < FULL else view.policy.instances
    old = turn.old_count() if view.requested_permille < FULL else len(
        [one for one in turn.of(view.from_release) if not one.leaves]
    )  # fmt: skip
    turn.wanted(wanted, old)
