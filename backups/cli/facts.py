"""Rows as plain data, for JSON and for tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from backups.models import Artifact, BackupPlan, BackupRecord, ProofRun
from backups.recovery_line import line_for
from controlplane.kernel.errors import Refused

LEVELS = ("L0 present", "L1 hashes", "L2 readable", "L3 restored")


def find_plan(name: str | None) -> BackupPlan:
    """The plan of that name; without one the only plan there is. Refused otherwise, naming those that are."""
    plans = {plan.name: plan for plan in BackupPlan.objects.select_related("target")}
    known = ", ".join(sorted(plans)) or "none; run `manage.py bootstrap`"
    if name is None and len(plans) == 1:
        return next(iter(plans.values()))
    if name is None:
        raise Refused("There is more than one plan.", remedy=f"Name one with --plan: {known}.")
    if name not in plans:
        raise Refused(f"There is no plan named {name}.", remedy=f"There are: {known}.")
    return plans[name]


def find_record(name: str) -> BackupRecord:
    """The record of that name; ``latest`` is the newest committed one. Refused where there is none."""
    records = BackupRecord.objects.select_related("target", "plan")
    if name == "latest":
        found = records.filter(state="committed").order_by("-committed_at").first()
        if found is None:
            raise Refused("There is no committed restore point yet.", remedy="Run `manage.py backup run`.")
        return found
    found = records.filter(name=name).first()
    if found is None:
        near = ", ".join(records.order_by("-created_at").values_list("name", flat=True)[:3])
        raise Refused(f"There is no restore point named {name}.", remedy=f"The newest: {near or 'none'}.")
    return found


def demand_parts(record: BackupRecord, names: Sequence[str]) -> None:
    """Refused for a part that the record does not have, naming those that it has."""
    known = set(record.artifacts.values_list("name", flat=True))
    if missing := sorted(set(names) - known):
        has = ", ".join(sorted(known)) or "none"
        raise Refused(f"{record.name} has no part named {missing[0]}.", remedy=f"It has: {has}.")


def level_of(artifacts: Sequence[Artifact]) -> int | None:
    """The level that all artifacts reach; None where one has none."""
    levels = [artifact.proof_level for artifact in artifacts]
    return None if not levels or None in levels else min(level for level in levels if level is not None)


def proven_at(artifacts: Sequence[Artifact], level: int) -> datetime | None:
    """Since when all of them hold at this level or above: the age of the proof is that of its oldest part."""
    times = [_proven_at(artifact, level) for artifact in artifacts]
    return min((time for time in times if time is not None), default=None) if None not in times else None


def _proven_at(artifact: Artifact, level: int) -> datetime | None:
    times = (getattr(artifact, f"l{each}_at") for each in range(level, len(LEVELS)))
    return max((time for time in times if time is not None), default=None)


def record_as_json(record: BackupRecord, *, lines: bool = False) -> dict[str, Any]:
    artifacts = list(record.artifacts.all())
    level = level_of(artifacts)
    return {
        "name": record.name,
        "plan": record.plan_name,
        "target": record.target.name,
        "state": record.state,
        "trigger": record.trigger,
        "requested_by": record.requested_by,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "committed_at": record.committed_at,
        "plain_bytes": record.plain_bytes,
        "stored_bytes": record.stored_bytes,
        "proof_level": level,
        "proven_at": None if level is None else proven_at(artifacts, level),
        "pinned": record.pinned_at is not None,
        "keep_reasons": record.keep_reasons,
        "warnings": record.warnings,
        "error": record.error,
        "artifacts": [artifact_as_json(each, record if lines else None) for each in artifacts],
    }


def artifact_as_json(artifact: Artifact, record: BackupRecord | None) -> dict[str, Any]:
    data = {
        "name": artifact.name,
        "kind": artifact.kind,
        "plain_bytes": artifact.plain_bytes,
        "stored_bytes": artifact.stored_bytes,
        "plain_sha256": artifact.plain_sha256,
        "summary": artifact.summary,
        "proof_level": artifact.proof_level,
        "damage": artifact.damage,
        "restore_seconds": artifact.restore_seconds,
        "warnings": artifact.warnings,
    }
    return data | ({"restore_line": line_for(artifact, record)} if record is not None and artifact.parts else {})


def proof_as_json(proof: ProofRun) -> dict[str, Any]:
    return {
        "record": proof.record.name,
        "level": proof.level,
        "state": proof.state,
        "started_at": proof.started_at,
        "finished_at": proof.finished_at,
        "read_bytes": proof.read_bytes,
        "findings": proof.findings,
        "error": proof.error,
    }
