"""Backups and their proofs: look, run, verify, drill."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from ninja import Query, Router

from backups.cli import facts
from backups.engine.requests import request_backup
from backups.models import BackupRecord, ProofRun
from backups.proof.requests import request_proof
from controlplane.api import schemas
from controlplane.api.auth import caller, demand, scoped
from controlplane.api.idempotency import Accepted, once
from controlplane.api.paging import Paging, page
from controlplane.kernel.errors import Refused

router = Router(tags=["backups"])
READ, RUN = "backups:read", "backups:run"


class BackupFilters(Paging):
    """Which backups. Deleted ones are left out unless their state is asked for."""

    plan: str = ""
    state: str = ""


def _record(name: str) -> BackupRecord:
    rows = BackupRecord.objects.select_related("target").prefetch_related("artifacts")
    record = rows.filter(name=name).first()
    if record is None:
        raise Http404(f"There is no backup {name}.")
    return record


def _proof_as_json(proof: ProofRun) -> dict[str, Any]:
    return {"id": proof.pk, **facts.proof_as_json(proof)}


@router.get("/backups", **scoped(READ, operation_id="list_backups", response=schemas.Page[schemas.Backup]))
def list_backups(request: HttpRequest, filters: Query[BackupFilters]) -> dict[str, Any]:
    """Backups, the newest first."""
    rows = BackupRecord.objects.select_related("target").prefetch_related("artifacts")
    rows = rows.filter(state=filters.state) if filters.state else rows.exclude(state="deleted")
    if filters.plan:
        rows = rows.filter(plan_name=filters.plan)
    return page(request, rows, filters, facts.record_as_json)


@router.get("/backups/{name}", **scoped(READ, operation_id="get_backup", response=schemas.Backup))
def get_backup(request: HttpRequest, name: str) -> dict[str, Any]:
    """One backup and its parts."""
    return facts.record_as_json(_record(name))


@router.post("/backups", **scoped(RUN, operation_id="run_backup", response={202: schemas.Backup}))
def run_backup(request: HttpRequest, body: schemas.NewBackup) -> HttpResponse:
    """Run a plan now. A worker does it; look at `Location` until its state is committed or failed."""
    token = caller(request)
    demand(token, "backups.run_backup")
    plan = facts.find_plan(body.plan)

    def act() -> Accepted:
        record = request_backup(
            plan, trigger=BackupRecord.Trigger.MANUAL, requested_by=token.actor, reason=body.reason,
            only_sources=body.sources,
        )  # fmt: skip
        if record is None:
            raise Refused(f"A run of {plan.name} is there already.", remedy="Wait for it.")
        return Accepted(schemas.Backup(**facts.record_as_json(record)), f"/api/v1/backups/{record.name}")

    return once(request, act)


@router.post("/backups/{name}/proofs", **scoped(RUN, operation_id="prove_backup", response={202: schemas.Proof}))
def prove_backup(request: HttpRequest, name: str, body: schemas.NewProof) -> HttpResponse:
    """Verify a backup (levels 0 to 2) or drill it (3). Look at `Location` until it is over."""
    token = caller(request)
    demand(token, "backups.drill_backup" if body.level == ProofRun.Level.L3 else "backups.verify_backup")
    record = _record(name)

    def act() -> Accepted:
        proof = request_proof(
            record, level=body.level, trigger=ProofRun.Trigger.MANUAL, requested_by=token.actor,
            only_artifacts=body.parts,
        )  # fmt: skip
        return Accepted(schemas.Proof(**_proof_as_json(proof)), f"/api/v1/proofs/{proof.pk}")

    return once(request, act)


@router.get("/proofs/{proof_id}", **scoped(READ, operation_id="get_proof", response=schemas.Proof))
def get_proof(request: HttpRequest, proof_id: int) -> dict[str, Any]:
    """One proof and what it found."""
    proof = ProofRun.objects.select_related("record").filter(pk=proof_id).first()
    if proof is None:
        raise Http404(f"There is no proof {proof_id}.")
    return _proof_as_json(proof)
