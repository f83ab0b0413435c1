"""The states in which the new release runs: start, give it traffic, watch, validate, let the old one go. Pure."""

from __future__ import annotations

from deployments.stages import FULL

from . import acts, notices
from .before import run_phase
from .turn import Turn
from .types import SetSplit

#: A split that the edge does not confirm for so long is a matter for a person.
CONFIRM_SECONDS = 60.0


def starting(turn: Turn) -> None:
    """The first stage's instances, until they are ready for long enough."""
    view = turn.view
    if turn.seen.instances is None:
        return
    if why := turn.gates():
        acts.go_back(turn, why)
        return
    new = turn.exchange(view.stage.permille)
    turn.wanted(new.coming, turn.old_count())
    # Those that are exchanged a few at a time need not all be there before the first of them serve.
    needed = min(new.coming, turn.canary_count())
    if turn.ready(view.release) >= needed:
        turn.move("shifting", "its instances are ready", stage_since=None, observed_seconds=0.0, observed_at=None)
    elif turn.count("waited") >= view.policy.readiness_deadline_seconds:
        acts.go_back(turn, _not_ready(turn, needed))


def _not_ready(turn: Turn, needed: int) -> str:
    return (
        f"{turn.ready(turn.view.release)} of {needed} instances of {turn.view.release} were ready after "
        f"{turn.view.policy.readiness_deadline_seconds} s."
    )


def shifting(turn: Turn) -> None:
    """Capacity first, then the share, then see that the edge really does it."""
    view = turn.view
    if turn.seen.instances is None:
        return
    if _is_bad(turn):
        return
    target = view.stage.permille
    new = turn.exchange(target)
    turn.wanted(new.coming, min(new.going, turn.old_count()))
    if turn.memory.get("coming") != new.coming:  # it got further: what is still to come has its whole time
        turn.memory["coming"] = new.coming
        turn.start_again("waited")
    share = _next_share(turn, new.permille, target)
    if share is None:
        if turn.count("waited") >= view.policy.readiness_deadline_seconds:
            acts.go_back(turn, _not_ready(turn, new.coming))
        return
    if share != view.requested_permille:
        turn.start_again("waited")
        turn.changes["requested_permille"] = share
    if view.policy.has_edge and turn.seen.split != turn.split_for(share):
        turn.effects.append(SetSplit(turn.split_for(share)))
    elif turn.confirmed(turn.split_for(share)):
        turn.start_again("unconfirmed")
        if share == target and turn.ready(view.release) >= min(new.coming, turn.canary_count()):
            turn.move("baking", f"{view.stage.percent} of the traffic", stage_since=turn.now)
    elif turn.count("unconfirmed") >= CONFIRM_SECONDS:
        acts.hold(turn, f"The edge has not taken the split for {CONFIRM_SECONDS:.0f} s.", by=acts.SYSTEM)


def _next_share(turn: Turn, allowed: int, target: int) -> int | None:
    """What to ask of the edge now; None while the capacity for more is not there yet."""
    has = turn.view.requested_permille
    if allowed >= target:
        return target
    if has and has == target:
        return has  # it has the share already; what died of it is being started again
    return allowed if allowed > has else None


def baking(turn: Turn) -> None:
    """Watch the stage for as long as the plan says, in time that was really seen."""
    view, policy = turn.view, turn.view.policy
    if turn.seen.instances is None or _is_bad(turn):
        return
    keep(turn)
    if turn.memory.get("fully") and view.stage_index >= view.last_stage:
        acts.leave_stage(turn, "promoted fully")
        return
    observed = watch(turn)
    _tell_of_missing_numbers(turn)
    if turn.memory.get("blind", 0.0) >= policy.health_check_timeout_seconds:
        acts.go_back(turn, f"The health of {view.release} could not be read for {turn.memory['blind']:.0f} s.")
        return
    if observed is None or observed < view.stage.bake_seconds * (1 + view.extensions):
        return
    if policy.instances and not turn.seen.health.ok:
        if turn.count("unwell") >= policy.health_check_timeout_seconds:
            acts.go_back(turn, _unwell(turn))
        return
    turn.start_again("unwell")
    verdict = turn.seen.verdict
    if not _needs_numbers(turn) or (verdict is not None and verdict.outcome == "pass"):
        said = verdict.sentence if verdict is not None and verdict.sentence else "Nothing speaks against it."
        acts.leave_stage(turn, f"{view.stage.percent} watched for {observed:.0f} s. {said}")
    else:
        _inconclusive(turn)


def watch(turn: Turn) -> float | None:
    """Credit this tick to the stage, if its health was really seen; the stage's observed seconds, None before the
    first such tick."""
    view, seen = turn.view, turn.seen
    if seen.health.read:
        turn.start_again("blind")
    elif view.policy.instances:
        turn.count("blind")
    if view.policy.instances == 0:
        return view.stage.bake_seconds * (1.0 + view.extensions)  # there is nothing that could be watched
    if not seen.health.read or (view.policy.has_edge and not seen.counted):
        return view.observed_seconds if view.observed_at is not None else None
    observed = view.observed_seconds + turn.passed
    turn.changes |= {"observed_seconds": observed, "observed_at": turn.now}
    return observed


def _tell_of_missing_numbers(turn: Turn) -> None:
    """Without the edge's counters nothing goes on and nothing goes back; somebody should know."""
    if not turn.view.policy.has_edge or turn.seen.counted:
        turn.start_again("uncounted")
        turn.memory.pop("told", None)
    elif turn.count("uncounted") >= CONFIRM_SECONDS and not turn.memory.get("told"):
        turn.memory["told"] = True
        turn.notes.append("the edge's counters cannot be read: the stage goes on when they can")
        notices.held(turn, "The edge's counters cannot be read, so nothing can be said of the release.")


def _needs_numbers(turn: Turn) -> bool:
    """Whether leaving this stage takes a verdict: where the edge counts, there is something to compare with, and the
    plan asks to watch."""
    view = turn.view
    return bool(
        view.policy.has_edge and view.from_release is not None and view.stage.bake_seconds and view.policy.instances
    )


def _unwell(turn: Turn) -> str:
    health, policy = turn.seen.health, turn.view.policy
    because = f" ({'; '.join(health.reasons[:3])})" if health.reasons else ""
    score = "has no health score" if health.score is None else f"has a health score of {health.score}"
    return (
        f"{turn.view.release} {score}{because} and did not reach {policy.min_health_score} within "
        f"{policy.health_check_timeout_seconds} s."
    )


def _inconclusive(turn: Turn) -> None:
    view, policy = turn.view, turn.view.policy
    said = turn.seen.verdict.sentence if turn.seen.verdict is not None else "There are no numbers."
    if view.extensions < policy.inconclusive_extensions:
        turn.changes["extensions"] = view.extensions + 1
        turn.notes.append(f"watched once more ({view.extensions + 1} of {policy.inconclusive_extensions}): {said}")
    elif policy.inconclusive_policy == "promote":
        acts.leave_stage(turn, f"goes on without a verdict, as its policy says. {said}")
    elif policy.inconclusive_policy == "abort" and turn.seen.counted:
        # Without any numbers this would be a rollback for want of metrics alone: that is held.
        acts.go_back(turn, f"No verdict was reached, and its policy is to go back. {said}")
    else:
        acts.hold(turn, f"No verdict was reached. {said}", by=acts.SYSTEM)


def validating(turn: Turn) -> None:
    """The service's own checks, and one more look at its health, with all traffic on it."""
    view = turn.view
    if turn.seen.instances is None or _is_bad(turn):
        return
    keep(turn)
    why = run_phase(turn, "validate")
    if why is None:
        return
    if why:
        acts.go_back(turn, why)
    elif view.policy.instances and not turn.seen.health.ok and not turn.memory.get("trusted"):
        if turn.count("unwell") >= view.policy.health_check_timeout_seconds:
            acts.go_back(turn, _unwell(turn))
    elif view.policy.instances and turn.ready(view.release) < view.policy.instances:
        if turn.count("waited") >= view.policy.readiness_deadline_seconds:
            acts.go_back(turn, _not_ready(turn, view.policy.instances))
    else:
        turn.move("finishing", "validated at 100 %", record="promoted", promoted_at=turn.now)


def keep(turn: Turn) -> None:
    """The instances of this stage, and a split that is what was asked for."""
    view = turn.view
    new = turn.exchange(view.stage.permille)
    turn.wanted(new.coming, min(new.going, turn.old_count()))
    split = turn.split_for(view.requested_permille)
    if view.policy.has_edge and turn.seen.split != split:
        turn.effects.append(SetSplit(split))


def finishing(turn: Turn) -> None:
    """The old release's instances drain and stop, once the new one carries everything by itself."""
    view = turn.view
    if turn.seen.instances is None:
        return
    if (why := turn.gates()) and not turn.memory.get("trusted"):
        acts.go_back(turn, why)
        return
    everything = turn.split_for(FULL)
    if view.policy.has_edge and turn.seen.split != everything:
        turn.effects.append(SetSplit(everything))
    old = turn.of(view.from_release) if view.from_release is not None else []
    alone = turn.confirmed(everything) and turn.ready(view.release) >= view.policy.instances
    turn.wanted(view.policy.instances, 0 if alone else len([one for one in old if not one.leaves]))
    if not old and alone:
        notices.succeeded(turn)
        turn.move("succeeded", f"{view.release} serves everybody", finished_at=turn.now)


def _is_bad(turn: Turn) -> bool:
    if turn.memory.get("trusted"):
        return False
    why = turn.trouble()
    if why:
        acts.go_back(turn, why)
    return bool(why)
