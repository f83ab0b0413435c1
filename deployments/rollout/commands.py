"""What people asked for, applied to the state that the deployment is in. Pure.

Each command is answered in the tick that sees it, with a sentence. To stop comes before everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deployments.machines import PAUSABLE

from . import acts
from .turn import Turn
from .types import Applied, CommandView

_URGENT = ("abort", "roll_back")


def answer(turn: Turn, commands: Sequence[CommandView]) -> None:
    """Apply the commands until one moves the deployment; those behind it are for the next decision, save where an
    abort has overtaken them."""
    urgent = [one for one in commands if one.kind in _URGENT]
    for one in [*urgent, *(one for one in commands if one.kind not in _URGENT)]:
        if turn.moved is not None and not urgent:
            return
        outcome = (
            f"overtaken by an {_words(urgent[0].kind)}" if turn.moved is not None else _ANSWERS[one.kind](turn, one)
        )
        turn.applied.append(Applied(one.pk, outcome[:300]))


def _words(kind: str) -> str:
    return "abort" if kind == "abort" else "order to roll back"


def _why(one: CommandView, done: str) -> str:
    return f"{done} by {one.actor}" + (f": {one.reason}" if one.reason else "")


def _late(turn: Turn, one: CommandView) -> str:
    return f"too late: it is {turn.view.state.replace('_', ' ')}"


def _line_holds(turn: Turn) -> bool:
    return bool(turn.seen.line_stopped) and turn.view.trigger != "rollback"


def _pause(turn: Turn, one: CommandView) -> str:
    if turn.view.state == "paused":
        turn.memory["paused_by"] = acts.PERSON  # it does not go on by itself any more
        return "stays paused"
    if turn.view.state not in PAUSABLE:
        return _late(turn, one)
    acts.hold(turn, _why(one, "paused"), by=acts.PERSON, actor=one.actor)
    return "paused"


def _resume(turn: Turn, one: CommandView) -> str:
    if turn.view.state != "paused":
        return _late(turn, one)
    if _line_holds(turn):
        return f"not while the line is stopped: {turn.seen.line_stopped}"
    acts.resume(turn, _why(one, "resumed"), actor=one.actor)
    return "resumed"


def _promote(turn: Turn, one: CommandView) -> str:
    view = turn.view
    at = view.resume_to if view.state == "paused" else view.state
    if _line_holds(turn):
        return f"not while the line is stopped: {turn.seen.line_stopped}"
    if view.state == "paused" and at != "baking":
        acts.resume(turn, _why(one, "resumed"), actor=one.actor)
        return "resumed; there is no stage to leave yet"
    if at != "baking":
        return _late(turn, one)
    if view.state == "paused":
        turn.memory.pop("paused_by", None)
        turn.changes |= {"resume_to": "", "pause_reason": ""}
    acts.leave_stage(turn, _why(one, "promoted"), actor=one.actor)
    return "promoted"


def _promote_fully(turn: Turn, one: CommandView) -> str:
    view = turn.view
    if _line_holds(turn) and view.state != "rollback_blocked":
        return f"not while the line is stopped: {turn.seen.line_stopped}"
    if view.state not in ("starting", "shifting", "baking", "paused", "rollback_blocked"):
        return _late(turn, one)
    turn.memory["fully"] = True
    reason, last = _why(one, "promoted fully"), view.last_stage
    at = view.resume_to if view.state == "paused" else view.state
    if view.state == "paused" and at not in ("shifting", "baking"):
        if at == "starting":
            turn.changes["stage_index"] = last
        acts.resume(turn, reason, actor=one.actor)
    elif at in ("starting", "shifting"):
        turn.changes["stage_index"] = last
        if view.state == "paused":
            acts.resume(turn, reason, actor=one.actor)
        else:
            turn.notes.append(reason)
    elif at == "baking" and view.stage_index >= last and view.state == "baking":
        acts.leave_stage(turn, reason, actor=one.actor)
    else:  # baking, paused while it baked, or held because there is no way back
        turn.memory.pop("paused_by", None)
        turn.changes |= {"resume_to": "", "pause_reason": "", "error": ""}
        turn.memory["trusted"] = view.state == "rollback_blocked"
        acts.leave_stage(turn, reason, actor=one.actor, to=last)
    return "promoted to 100 %"


def _abort(turn: Turn, one: CommandView) -> str:
    if turn.view.state in ("rolling_back", "rollback_blocked"):
        return _late(turn, one)
    turn.memory["asked_back"] = True
    acts.end_early(turn, _why(one, "aborted"), actor=one.actor)
    return "aborted" if turn.moved is not None and turn.moved.to == "aborted" else "goes back"


def _roll_back(turn: Turn, one: CommandView) -> str:
    if turn.view.state == "rolling_back":
        return _late(turn, one)
    turn.memory["asked_back"] = True
    if turn.view.state == "rollback_blocked":
        turn.memory["forced_back"] = True  # he has been told why it does not go back by itself
    acts.end_early(turn, _why(one, "rolled back"), actor=one.actor)
    return "aborted" if turn.moved is not None and turn.moved.to == "aborted" else "goes back"


def _retry(turn: Turn, one: CommandView) -> str:
    if turn.view.state != "rollback_blocked":
        return _late(turn, one)
    acts.go_back(turn, _why(one, "tried again"), actor=one.actor)
    return "tries to go back again"


_ANSWERS: dict[str, Callable[[Turn, CommandView], str]] = {
    "pause": _pause,
    "resume": _resume,
    "promote": _promote,
    "promote_fully": _promote_fully,
    "abort": _abort,
    "roll_back": _roll_back,
    "retry": _retry,
}
