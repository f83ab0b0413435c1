"""Moves that several states share: go on, go back, hold, go on again. Pure."""

from __future__ import annotations

from deployments.machines import PAUSABLE

from . import notices
from .turn import Turn
from .types import KillStep

#: Who a deployment was paused by. What the line has paused goes on with the line.
PERSON, LINE, SYSTEM = "person", "line", "system"


def start(turn: Turn, reason: str, *, actor: str = "") -> None:
    """To the first instances, at the stage that comes first."""
    index = turn.view.last_stage if turn.stages_are_skipped or turn.memory.get("fully") else 0
    turn.move("starting", reason, actor=actor, stage_index=index)


def leave_stage(turn: Turn, reason: str, *, actor: str = "", to: int | None = None) -> None:
    """To the next stage (or that one), or to the validation behind the last."""
    view = turn.view
    index = view.stage_index + 1 if to is None else to
    if index > view.last_stage:
        turn.move("validating", reason, actor=actor)
        return
    turn.move(
        "shifting", reason, actor=actor, stage_index=index, stage_since=None, observed_seconds=0.0, observed_at=None,
        extensions=0,
    )  # fmt: skip


def kill_steps(turn: Turn) -> None:
    """End what the pipeline runs at the moment."""
    for step in turn.seen.steps:
        if step.status == "running":
            turn.effects.append(KillStep(step.phase, step.position, step.attempt))


def fail(turn: Turn, why: str) -> None:
    """Over before anything of it ran: the release that serves was not touched."""
    kill_steps(turn)
    notices.failed(turn, why)
    turn.move("failed", why, error=why, finished_at=turn.now)


def go_back(turn: Turn, why: str, *, actor: str = "") -> None:
    """Back to the old release; a person's word is noted as his."""
    kill_steps(turn)
    turn.move("rolling_back", why, actor=actor, error=why)


def end_early(turn: Turn, why: str, *, actor: str = "") -> None:
    """An abort: where nothing runs yet it is over, else it goes back."""
    if turn.before_instances:
        kill_steps(turn)
        turn.move("aborted", why, actor=actor, error=why, finished_at=turn.now)
    else:
        go_back(turn, why, actor=actor)


def hold(turn: Turn, why: str, *, by: str, actor: str = "") -> None:
    """Pause it where it is. What its state counted stands still until it goes on."""
    if turn.view.state not in PAUSABLE:
        return
    turn.memory["paused_by"] = by
    turn.start_again("unconfirmed")
    if by == SYSTEM:
        notices.held(turn, why)
    turn.move("paused", why, actor=actor, keep=True, resume_to=turn.view.state, pause_reason=why)


def resume(turn: Turn, why: str, *, actor: str = "") -> None:
    """Where it was paused; the data that were too few are waited for once more."""
    turn.memory.pop("paused_by", None)
    turn.move(turn.view.resume_to, why, actor=actor, keep=True, resume_to="", pause_reason="", extensions=0)
