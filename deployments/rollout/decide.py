"""What a deployment does next. Pure: the same row, the same observations and the same time say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from deployments.machines import BEFORE_INSTANCES, DEPLOYMENT, PAUSABLE

from . import acts, back, before, traffic
from .commands import answer
from .credit import credit
from .turn import Turn
from .types import Applied, CommandView, Decision, Observations, RolloutView


def decide(view: RolloutView, seen: Observations, commands: Sequence[CommandView], now: datetime) -> Decision:
    """At most one move, and what is to be done meanwhile.

    It is asked again, with the row as it then is, until it moves no more; asking it twice with the same row says the
    same twice, save that time is credited to the first of them only.
    """
    if view.state in DEPLOYMENT.terminal_states:
        return Decision(applied=tuple(Applied(one.pk, f"too late: it is {view.state}") for one in commands))
    passed, memory = credit(view.memory, now, seen.boot, seen.monotonic)
    turn = Turn(view, seen, now, passed, memory)
    answer(turn, commands)
    if turn.moved is None and turn.changes:
        turn.view = replace(view, **turn.changes)
    if turn.moved is None and not _line_holds(turn):
        _STATES[view.state](turn)
    return turn.decision()


def _line_holds(turn: Turn) -> bool:
    """A stopped line holds what goes forward; what goes back, goes back."""
    stopped = turn.seen.line_stopped
    if not stopped or turn.view.trigger == "rollback" or turn.view.state not in PAUSABLE:
        return False
    if turn.view.state not in BEFORE_INSTANCES and (why := _bad(turn)):
        acts.go_back(turn, why)
        return True
    acts.hold(turn, f"the line is stopped: {stopped}", by=acts.LINE)
    return True


def _paused(turn: Turn) -> None:
    """It is kept as it is and watched: a release that turns out bad while it is held is still taken back."""
    if not turn.before_instances:
        if turn.seen.instances is None:
            return
        if why := _bad(turn):
            acts.go_back(turn, why)
            return
        traffic.keep(turn)
    if turn.memory.get("paused_by") == acts.LINE and not turn.seen.line_stopped:
        acts.resume(turn, "the line runs again")
    else:
        turn.passed = 0.0  # its deadlines stand still


def _bad(turn: Turn) -> str:
    if turn.memory.get("trusted") or turn.seen.instances is None:
        return ""
    return turn.trouble()


_STATES: dict[str, Callable[[Turn], None]] = {
    "waiting": before.waiting,
    "queued": before.queued,
    "fetching": before.running_steps,
    "checking": before.running_steps,
    "building": before.running_steps,
    "backing_up": before.backing_up,
    "starting": traffic.starting,
    "shifting": traffic.shifting,
    "baking": traffic.baking,
    "validating": traffic.validating,
    "finishing": traffic.finishing,
    "rolling_back": back.rolling_back,
    "rollback_blocked": back.rollback_blocked,
    "paused": _paused,
}
