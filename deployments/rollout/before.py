"""The states before anything of the new release runs: wait, fetch, check, build, back up. Pure."""

from __future__ import annotations

from . import acts
from .turn import Turn
from .types import RequestBackup, RequestProof, RunStep, StepView

#: A step that vanished is run once more.
MOST_ATTEMPTS = 2
_PHASES = {"fetching": ("fetch", "checking"), "checking": ("check", "building"), "building": ("build", "backing_up")}
_ENDED_BADLY = ("failed", "cancelled", "corrupt", "deleted", "deleting", "expired")


def waiting(turn: Turn) -> None:
    """Until nothing else of the service is active and the line runs. What it comes from is fixed as it leaves."""
    view, seen = turn.view, turn.seen
    if seen.other_active or (seen.line_stopped and view.trigger != "rollback"):
        return
    if seen.current_release == view.release:
        why = f"{view.release} serves everybody already."
        turn.move("aborted", why, error=why, finished_at=turn.now)
        return
    turn.move("queued", "its turn has come", started_at=turn.now)


def queued(turn: Turn) -> None:
    if turn.view.skips_pipeline and turn.seen.source_gone:
        acts.fail(turn, turn.seen.source_gone)
    elif turn.view.skips_pipeline:
        acts.start(turn, "starts without the pipeline")
    else:
        turn.move("fetching", "fetches its source")


def running_steps(turn: Turn) -> None:
    """The steps of this state's phase, one after the other; the first that blocks ends the deployment."""
    phase, after = _PHASES[turn.view.state]
    why = run_phase(turn, phase)
    if why is None:
        return
    if why:
        acts.fail(turn, why)
    else:
        turn.move(after, f"{phase} is done")


def run_phase(turn: Turn, phase: str) -> str | None:
    """Begin what is to be begun. None: it goes on; empty: all is done; else why it blocks."""
    for step in sorted((one for one in turn.seen.steps if one.phase == phase), key=lambda one: one.position):
        if step.status == "running":
            return None
        if step.status == "todo" or (step.status == "gone" and step.attempt < MOST_ATTEMPTS):
            turn.effects.append(RunStep(phase, step.position, step.attempt + 1))
            return None
        if why := _blocks(step):
            return why
    return ""


def _blocks(step: StepView) -> str:
    if step.status == "gone":
        return f"{step.name} vanished twice without an end: the machine was restarted, or somebody killed it."
    if step.status in ("failed", "timed_out") and step.blocks:
        said = "took too long" if step.status == "timed_out" else "failed"
        return f"{step.name} {said}. {step.summary}".strip()
    if step.status == "unknown" and step.unknown_blocks:
        return f"{step.name} could not tell. {step.summary}".strip()
    return ""


def backing_up(turn: Turn) -> None:
    """A real backup, committed, and proven as far as the service asks."""
    policy, backup = turn.view.policy, turn.seen.backup
    if not policy.has_backup_plan:
        acts.start(turn, "no backup is asked for")
    elif backup is None:
        turn.effects.append(RequestBackup())
    elif backup.state in _ENDED_BADLY:
        acts.fail(turn, f"The backup {backup.name} is {backup.state}. {backup.error}".strip())
    elif backup.state not in ("committed", "expiring"):
        return
    elif backup.level is not None and backup.level >= policy.backup_level:
        acts.start(turn, f"the backup {backup.name} is proven to level {backup.level}")
    elif backup.proof_failed:
        acts.fail(turn, f"The backup {backup.name} is not proven: {backup.proof_failed}")
    elif not backup.proving:
        turn.effects.append(RequestProof(policy.backup_level))
