"""Writing a decision down: the move, the columns, the answers to commands and the messages, in one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog
from django.db import IntegrityError, transaction

from controlplane.kernel import transitions
from controlplane.kernel.errors import LeaseLost
from controlplane.kernel.leases import RELEASED
from deployments import metrics
from deployments.machines import DEPLOYMENT
from deployments.models import Command, Deployment, DeploymentEvent, Observation, Release
from deployments.rollout.types import Decision, Notify

from . import notices
from .events import note
from .held import Held
from .pipeline_steps import plan_of
from .steps import step_reached

log = structlog.get_logger(__name__)


def write(held: Held, decision: Decision, now: datetime) -> bool:
    """Carry the decision into the rows; True if the deployment moved. LeaseLost, and nothing written, if it is not
    ours any more.
    """
    deployment = held.deployment
    assert deployment is not None  # noqa: S101  (its caller has one)
    before = deployment.state
    try:
        with transaction.atomic():
            for one in decision.applied:
                Command.objects.filter(pk=one.pk, applied_at__isnull=True).update(applied_at=now, outcome=one.outcome)
            for text in decision.notes:
                note(deployment, text, actor="engine", now=now)
            for effect in decision.effects:
                if isinstance(effect, Notify):
                    notices.send(deployment, effect)
            if decision.move is not None:
                _move(held, decision, now)
            elif decision.changes:
                held.write_deployment(**decision.changes)
    except IntegrityError:
        # Another deployment of the service became active first: this one goes on waiting.
        if before != "waiting":
            raise
        deployment.refresh_from_db()
        return False
    if decision.move is None:
        return False
    step_reached(f"moved:{before}:{deployment.state}")
    _after(held, before)
    return True


def _move(held: Held, decision: Decision, now: datetime) -> None:
    deployment, move = held.deployment, decision.move
    assert deployment is not None  # noqa: S101  (see write)
    assert move is not None  # noqa: S101
    before = deployment.state
    changes: dict[str, Any] = {**decision.changes, "state_since": now, "due_at": now}
    if before == "waiting" and move.to == "queued":
        changes["from_release"] = held.state.current
        changes["memory"] = {**changes.get("memory", deployment.memory), "steps": plan_of(held.service)}
    if move.record == "promoted":
        changes["memory"] = {
            **changes.get("memory", deployment.memory),
            "previous": held.state.previous.version if held.state.previous else None,
        }
    over = move.to in DEPLOYMENT.terminal_states
    if over:
        changes |= {**RELEASED, "due_at": None}
    moved = transitions.advance(
        deployment, move.to, machine=DEPLOYMENT, event=DeploymentEvent, reason=move.reason,
        actor=move.actor or "engine", now=now, changes=changes, lease=held.deployment_lease,
    )  # fmt: skip
    if not moved:
        raise LeaseLost(f"{deployment.name} was moved by somebody else.")
    if move.record:
        _record(held, deployment, move.record)
    if over:
        held.deployment_lease = None
    step_reached(f"moving:{before}:{move.to}")


def _record(held: Held, deployment: Deployment, record: str) -> None:
    """Which release serves, in the same transaction as the move that makes it so."""
    if record == "promoted":
        held.write_state(current=deployment.release, previous=deployment.from_release)
        return
    version = deployment.memory.get("previous")
    previous = Release.objects.filter(service=held.service, version=version).first() if version else None
    held.write_state(current=deployment.from_release, previous=previous)


def _after(held: Held, before: str) -> None:
    deployment = held.deployment
    assert deployment is not None  # noqa: S101  (see write)
    log.info("deployment_moved", deployment=deployment.name, service=held.service.name, was=before,
             state=deployment.state)  # fmt: skip
    if deployment.state in DEPLOYMENT.terminal_states:
        metrics.ends.add((held.service.name, deployment.state))


def note_detected(held: Held, now: datetime) -> None:
    """The new release has no share any more, as the edge was read back: how long that took since its first bad
    request is counted, once."""
    deployment = held.deployment
    if deployment is None or deployment.state != "rolling_back" or deployment.memory.get("detected"):
        return
    for seen in Observation.objects.filter(deployment=deployment).order_by("at").iterator():
        new = seen.data.get("new") or {}
        if new.get("errors") or new.get("slow"):
            seconds = max(0.0, (now - seen.at).total_seconds())
            metrics.detect_seconds.observe((held.service.name,), seconds)
            held.write_deployment(memory={**deployment.memory, "detected": seconds})
            return
    held.write_deployment(memory={**deployment.memory, "detected": -1})
