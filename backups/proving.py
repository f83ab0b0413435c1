"""What follows a run, and what the drill schedule asks for: where the engine and the ladder of proof meet."""

from __future__ import annotations

import structlog

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from .engine.expiry import expire_plan
from .models import BackupRecord, ProofRun
from .proof.requests import request_proof
from .standing import SKEW
from .storage.state import check_target

log = structlog.get_logger(__name__)


def after_run(record: BackupRecord) -> None:
    """A restore point that was just made is drilled if its plan says so (the first of all always is), retention looks
    at the plan again, and what is known of the store is brought up to date.
    """
    plan = record.plan
    if record.state != "committed" or plan is None:
        return
    if plan.drill_after_backup or record.trigger == BackupRecord.Trigger.FIRST:
        _request(record, ProofRun.Trigger.COMMIT)
    try:
        expire_plan(plan, clock.now())
    except Refused as refused:
        log.warning("retention_refused", plan=plan.name, why=str(refused))
    check_target(record.target, clock.now())


def drill_newest(plan_id: int) -> ProofRun | None:
    """Ask for a drill of the plan's newest restore point; None where there is none, or one is under way."""
    records = BackupRecord.objects.filter(
        plan_id=plan_id, plan__enabled=True, state="committed", only_sources=[], committed_at__lte=clock.now() + SKEW
    )
    record = records.order_by("-committed_at").first()
    return _request(record, ProofRun.Trigger.SCHEDULE) if record is not None else None


def _request(record: BackupRecord, trigger: str) -> ProofRun | None:
    try:
        return request_proof(record, level=ProofRun.Level.L3, trigger=trigger, requested_by="schedule")
    except Refused as refused:
        log.info("drill_not_requested", backup=record.name, why=str(refused))
        return None
