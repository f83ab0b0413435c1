"""``backup list``, ``health`` and ``prune``: look, and with ``prune`` let retention act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backups.engine.expiry import expire_plan, preview_retention
from backups.health import health_report
from backups.models import BackupPlan, BackupRecord, PlanState
from controlplane.kernel import clock

from . import exits, facts
from .output import Output, ago, size

_HEALTH_EXITS = {"pass": exits.DONE, "warn": exits.WARNINGS, "fail": exits.FAILED, "unknown": exits.UNKNOWN}
_MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "unknown": "?"}


def show(options: Mapping[str, Any], output: Output) -> int:
    records = BackupRecord.objects.select_related("target").prefetch_related("artifacts")
    if options["plan"]:
        records = records.filter(plan=facts.find_plan(options["plan"]))
    if not options["all"]:
        records = records.exclude(state="deleted")
    shown = list(records.order_by("-created_at")[: options["limit"]])
    output.document([facts.record_as_json(record, lines=options["lines"]) for record in shown])
    now = clock.now()
    rows = []
    for record in shown:
        artifacts = list(record.artifacts.all())
        level = facts.level_of(artifacts)
        proof = "–" if level is None else f"{facts.LEVELS[level]}, {ago(facts.proven_at(artifacts, level), now)}"
        sizes = f"{size(record.plain_bytes)} → {size(record.stored_bytes)}" if record.committed_at else "–"
        rows.append([record.name, record.plan_name, record.state, ago(record.created_at, now), sizes, proof])
    heads = ["restore point", "plan", "state", "begun", "size", "proof"]
    output.table(heads, rows, "No restore points yet. `manage.py backup run` makes the first one.")
    if options["lines"]:
        for record in shown:
            for artifact in facts.record_as_json(record, lines=True)["artifacts"]:
                output.line(f"\n# {record.name} {artifact['name']}\n{artifact.get('restore_line', '')}")
    return exits.DONE


def health(options: Mapping[str, Any], output: Output) -> int:
    report = health_report()
    output.document(report)
    for item in report["checks"]:
        remedy = f" → {item['remedy']}" if item.get("remedy") else ""
        output.line(f"{_MARKS.get(item['status'], '·')} {item['name']}: {item['summary']}{remedy}")
    return _HEALTH_EXITS[report["status"]]


def prune(options: Mapping[str, Any], output: Output) -> int:
    plans = [facts.find_plan(options["plan"])] if options["plan"] else list(BackupPlan.objects.all())
    act = _would_prune if options["dry_run"] else _prune
    output.document({plan.name: act(plan, output) for plan in plans})
    return exits.DONE


def _would_prune(plan: BackupPlan, output: Output) -> list[dict[str, Any]]:
    judged: list[dict[str, Any]] = [
        {"name": each.record.name, "keep": each.keep, "reasons": list(each.reasons) or ["no rule keeps it"]}
        for each in preview_retention(plan)
    ]
    rows = [["keep" if each["keep"] else "delete", each["name"], "; ".join(each["reasons"])] for each in judged]
    state = PlanState.objects.filter(plan=plan, retention_frozen_at__isnull=False).first()
    frozen = f" FROZEN, nothing expires: {state.retention_frozen_reason}" if state else ""
    output.line(f"plan {plan.name}:{frozen}")
    output.table(["", "restore point", "because"], rows, "  nothing is committed")
    return judged


def _prune(plan: BackupPlan, output: Output) -> dict[str, Any]:
    report = expire_plan(plan)
    output.line(
        f"plan {plan.name}: {report.marked} marked (undo for a day), {report.deleted} deleted, "
        f"{size(report.freed_bytes)} freed" + (f"; FROZEN: {report.frozen}" if report.frozen else "")
    )
    return asdict(report)
