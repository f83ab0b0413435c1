"""Rows as the engine, the proofs and the restores leave them, for tests that only look at pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from backups import beat
from backups.models import (
    Artifact,
    BackupEvent,
    BackupPlan,
    BackupRecord,
    BackupSource,
    ProofRun,
    RestoreRecord,
    StorageTarget,
)
from controlplane.kernel import clock

MIB = 2**20
#: Name, kind, plain bytes, stored bytes, summary, seconds of a restore.
PARTS: Sequence[tuple[str, str, int, int, dict[str, Any], float]] = (
    ("control-plane-database", "sqlite", 42 * MIB, 9 * MIB, {"tables": 31, "rows": 53412}, 3.4),
    ("configuration", "files", 12_000, 5_100, {"files": 3}, 0.2),
    ("logs", "logs", 220 * MIB, 18 * MIB, {"files": 14}, 4.1),
)


def make_target(name: str = "local", **columns: Any) -> StorageTarget:
    return StorageTarget.objects.get_or_create(name=name, defaults={"kind": "local", "path": "backups", **columns})[0]


def make_sources(parts: Iterable[tuple[Any, ...]] = PARTS) -> list[BackupSource]:
    return [
        BackupSource.objects.get_or_create(name=name, defaults={"kind": kind, "settings": {}})[0]
        for name, kind, *_ in parts
    ]


def make_plan(name: str = "zantara", *, age_days: float = 60, cron: str = "0 2 * * *", **columns: Any) -> BackupPlan:
    """A plan with its sources, its target and its rows of beat."""
    plan = BackupPlan.objects.create(name=name, target=make_target(), **columns)
    plan.sources.set(make_sources())
    BackupPlan.objects.filter(pk=plan.pk).update(created_at=clock.now() - timedelta(days=age_days))
    plan.refresh_from_db()
    beat.write_schedule(plan, beat.Times(cron))
    beat.write_drill_schedule(plan, beat.Times(beat.DEFAULT_DRILL_CRON))
    return plan


def make_record(
    plan: BackupPlan, at: datetime | None = None, *, state: str = "committed", **columns: Any
) -> BackupRecord:
    """A record in a state, without artifacts."""
    at = at or clock.now() - timedelta(hours=3)
    committed = state in ("committed", "expiring", "deleting", "deleted")
    day = f"zantara-backup-{at:%Y-%m-%d}"
    same = BackupRecord.objects.filter(name__startswith=day).count()
    set_id = uuid4()
    defaults: dict[str, Any] = {
        "name": f"{day}-{same + 1}" if same else day,
        "plan_name": plan.name,
        "target": plan.target,
        "trigger": "schedule",
        "due_at": at,
        "created_at": at,
        "started_at": None if state == "queued" else at + timedelta(seconds=2),
        "finished_at": None if state in ("queued", "running") else at + timedelta(seconds=75),
        "committed_at": at + timedelta(seconds=75) if committed else None,
        "attempt": 0 if state == "queued" else 1,
        "set_id": set_id,
        "prefix": f"sets/{plan.name}/{at:%Y/%m}/{set_id}",
        "manifest_sha256": "ab" * 32 if committed else "",
        "keep_reasons": ["within 30 days"] if state == "committed" else [],
    }
    if state == "running":
        alive = clock.now() + timedelta(seconds=60)
        defaults |= {"lease_owner": "worker", "lease_token": 1, "lease_expires_at": alive}
    record = BackupRecord.objects.create(plan=plan, state=state, **{**defaults, **columns})
    BackupEvent(subject=record, at=at, from_state="queued", to_state="queued", reason="requested (schedule)").save()
    if state != "queued":
        BackupEvent(subject=record, at=at + timedelta(seconds=2), from_state="queued", to_state="running").save()
    return record


def add_artifacts(
    record: BackupRecord, *, level: int | None = None, at: datetime | None = None, growth: float = 1
) -> list[Artifact]:
    """The record's artifacts, all proven up to ``level`` at ``at``; the record's sums with them."""
    at = at or clock.now() - timedelta(hours=2)
    made = []
    for position, (name, kind, plain_size, stored_size, summary, seconds) in enumerate(PARTS):
        plain, stored = int(plain_size * growth), int(stored_size * growth)
        proofs = {f"l{n}_at": at for n in range(level + 1)} if level is not None else {}
        made.append(
            Artifact.objects.create(
                record=record,
                source=BackupSource.objects.filter(name=name).first(),
                name=name,
                kind=kind,
                position=position,
                settings={},
                captured_from_at=record.started_at,
                captured_to_at=record.committed_at,
                plain_bytes=plain,
                compressed_bytes=stored - 200,
                stored_bytes=stored,
                plain_sha256="12" * 32,
                stored_sha256="34" * 32,
                parts=[{"name": "part-00001.age", "size": stored, "sha256": "56" * 32}],
                tools={"zstd": "1.5.7"},
                summary=summary,
                expectations={"object": "expectations.json.zst.age", "size": 900, "sha256": "78" * 32},
                restore_seconds=seconds if level == 3 else None,
                **proofs,
            )
        )
    record.plain_bytes = sum(one.plain_bytes for one in made)
    record.compressed_bytes = sum(one.compressed_bytes for one in made)
    record.stored_bytes = sum(one.stored_bytes for one in made)
    record.save(update_fields=["plain_bytes", "compressed_bytes", "stored_bytes"])
    return made


def make_set(plan: BackupPlan, at: datetime | None = None, *, level: int | None = None, **columns: Any) -> BackupRecord:
    """A committed record with its artifacts."""
    proven_at = columns.pop("proven_at", None)
    growth = columns.pop("growth", 1)
    record = make_record(plan, at, **columns)
    add_artifacts(record, level=level, at=proven_at, growth=growth)
    return record


def make_proof(record: BackupRecord, *, level: int = 3, state: str = "passed", **columns: Any) -> ProofRun:
    at = clock.now() - timedelta(hours=1)
    ended = state not in ("queued", "running")
    defaults: dict[str, Any] = {
        "trigger": "schedule",
        "created_at": at,
        "due_at": at,
        "started_at": None if state == "queued" else at,
        "finished_at": at + timedelta(seconds=8) if ended else None,
        "read_bytes": 27 * MIB,
        "findings": [
            {"artifact": name, "status": "pass", "detail": "31 tables, 53412 rows as saved"} for name, *_ in PARTS
        ]
        if ended
        else [],
    }
    return ProofRun.objects.create(record=record, level=level, state=state, **{**defaults, **columns})


def make_restore(record: BackupRecord, *, state: str = "done", **columns: Any) -> RestoreRecord:
    at = clock.now() - timedelta(minutes=20)
    number = RestoreRecord.objects.count() + 1
    defaults: dict[str, Any] = {
        "name": f"zantara-restore-{at:%Y-%m-%d}-{number}",
        "artifacts": ["configuration"],
        "options": {"stop_services": False, "minimum_score": 80},
        "requested_by": "olga",
        "reason": "the settings were lost",
        "created_at": at,
        "due_at": at,
        "started_at": at,
        "finished_at": at + timedelta(seconds=31) if state in ("done", "rolled_back", "failed") else None,
        "steps": [
            {
                "step": "preflight", "artifact": "", "status": "done", "detail": "",
                "started_at": at.isoformat(), "finished_at": (at + timedelta(seconds=1)).isoformat(),
            },
        ],
    }  # fmt: skip
    return RestoreRecord.objects.create(record=record, state=state, **{**defaults, **columns})
