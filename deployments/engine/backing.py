"""The backup before a deployment: asked for once, waited for by ticks, proven as far as the service demands."""

from __future__ import annotations

from django.db import transaction

from backups.engine.requests import request_backup
from backups.models import BackupRecord, ProofRun
from backups.proof.requests import request_proof
from controlplane.kernel.errors import Refused
from deployments.models import Deployment
from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.types import BackupView

from .held import Held
from .steps import step_reached


def view_of(deployment: Deployment) -> BackupView | None:
    """The deployment's backup as it stands; None while none was asked for."""
    if refusal := deployment.memory.get("backup_refused"):
        return BackupView("before the deployment", "failed", error=str(refusal))
    record = BackupRecord.objects.filter(pk=deployment.backup_id).first() if deployment.backup_id else None
    if record is None:
        return None
    levels = [artifact.proof_level for artifact in record.artifacts.all()]
    level = None if not levels or None in levels else min(one for one in levels if one is not None)
    wanted = RolloutPolicy.from_json(deployment.policy).backup_level
    proof = ProofRun.objects.filter(record=record, level__gte=wanted).order_by("-pk").first()
    failed = ""
    if proof is not None and proof.state not in ("queued", "running"):
        # A proof that passed and still leaves the level short has passed over something.
        failed = proof.error or f"the proof up to level {proof.level} is {proof.state.replace('_', ' ')}"
    return BackupView(
        name=record.name,
        state=record.state,
        level=level,
        proving=proof is not None and proof.state in ("queued", "running"),
        proof_failed=failed,
        error=record.error,
    )


def ask_for_backup(held: Held) -> None:
    """Queue the run and link it, in one transaction: it is asked for once, whoever dies in between."""
    deployment = held.deployment
    assert deployment is not None  # noqa: S101  (only called with one)
    plan = held.service.backup_plan
    if deployment.backup_id is not None:
        return
    try:
        if plan is None:
            raise Refused("The service's backup plan is gone.")
        with transaction.atomic():
            record = request_backup(
                plan, trigger=BackupRecord.Trigger.DEPLOYMENT, requested_by=deployment.requested_by,
                reason=f"before {deployment.name}",
            )  # fmt: skip
            if record is not None:
                held.write_deployment(backup_id=record.pk)
    except Refused as error:
        held.write_deployment(memory={**deployment.memory, "backup_refused": str(error)})
    step_reached("backup_asked")


def ask_for_proof(held: Held, level: int) -> None:
    deployment = held.deployment
    assert deployment is not None  # noqa: S101  (only called with one)
    record = deployment.backup
    if record is None:
        return
    try:
        request_proof(record, level=level, trigger=ProofRun.Trigger.MANUAL, requested_by=deployment.name)
    except Refused as error:
        held.write_deployment(memory={**deployment.memory, "backup_refused": str(error)})
    step_reached("proof_asked")
