"""Rows of backups, and a real committed set made by the real engine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backups import keys
from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.models import Artifact, BackupPlan, BackupRecord, BackupSource, ProofRun, StorageTarget

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


def short() -> str:
    return uuid.uuid4().hex[:8]


def local_target(folder: Path, **columns: Any) -> StorageTarget:
    """A target in ``folder`` (made, absolute)."""
    folder.mkdir(parents=True, exist_ok=True)
    name = columns.pop("name", f"target-{short()}")
    return StorageTarget.objects.create(name=name, kind="local", path=str(folder), **columns)


def files_source(folder: Path, *, contents: Mapping[str, bytes] | None = None, **columns: Any) -> BackupSource:
    """A source of the files in ``folder``, which gets ``contents`` (path -> bytes) unless it has some already."""
    folder.mkdir(parents=True, exist_ok=True)
    if contents is None:
        contents = {} if any(folder.iterdir()) else {"a.txt": b"hello\n", "sub/b.bin": bytes(range(256)) * 40}
    for path, body in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    name = columns.pop("name", f"files-{short()}")
    settings = columns.pop("settings", {"base": str(folder), "patterns": "*"})
    return BackupSource.objects.create(name=name, kind=columns.pop("kind", "files"), settings=settings, **columns)


def plan_of(target: StorageTarget, sources: Sequence[BackupSource] = (), **columns: Any) -> BackupPlan:
    """A plan without a schedule; ``backups.beat.write_schedule`` gives it one."""
    plan = BackupPlan.objects.create(name=columns.pop("name", f"plan-{short()}"), target=target, **columns)
    plan.sources.set(sources)
    return plan


def files_plan(tmp_path: Path, *, contents: Mapping[str, bytes] | None = None, **columns: Any) -> BackupPlan:
    """A plan of one files source (``tmp_path/source``) on a local target (``tmp_path/store``)."""
    keys.ensure_keys()
    source = files_source(tmp_path / "source", contents=contents)
    return plan_of(local_target(tmp_path / "store"), [source], **columns)


def record_of(plan: BackupPlan, *, state: str = "committed", at: datetime = NOW, **columns: Any) -> BackupRecord:
    """A row alone, with nothing in the store: for pages and for judgements."""
    done = at if state in ("committed", "expiring", "deleting", "deleted") else None
    values: dict[str, Any] = {
        "name": f"zantara-backup-{at:%Y-%m-%d}-{short()}",
        "plan_name": plan.name,
        "target": plan.target,
        "trigger": "schedule",
        "due_at": at,
        "created_at": at,
        "started_at": None if state == "queued" else at,
        "finished_at": None if state in ("queued", "running") else at + timedelta(minutes=1),
        "committed_at": done,
        "attempt": 0 if state == "queued" else 1,
        "set_id": uuid.uuid4(),
    }
    return BackupRecord.objects.create(plan=plan, state=state, **{**values, **columns})


def artifact_of(record: BackupRecord, *, name: str = "files", **columns: Any) -> Artifact:
    values: dict[str, Any] = {"kind": "files", "plain_bytes": 1000, "compressed_bytes": 500, "stored_bytes": 600}
    return Artifact.objects.create(record=record, name=name, **{**values, **columns})


def proof_of(
    record: BackupRecord, *, level: int = 3, state: str = "passed", at: datetime = NOW, **columns: Any
) -> ProofRun:
    values: dict[str, Any] = {"trigger": "schedule", "created_at": at, "due_at": at, "finished_at": at}
    return ProofRun.objects.create(record=record, level=level, state=state, **{**values, **columns})


def run_now(plan: BackupPlan, **request: Any) -> BackupRecord:
    """Request a run of the plan and carry it out here; the row as it ended, whatever the end."""
    record = request_backup(plan, trigger=request.pop("trigger", "manual"), **request)
    assert record is not None
    ended = run_backup(record.pk, owner="test")
    assert ended is not None, "the run was not due, or somebody else had it"
    return ended


def committed_set(
    tmp_path: Path, *, contents: Mapping[str, bytes] | None = None, plan: BackupPlan | None = None, **request: Any
) -> BackupRecord:
    """A real committed set of the files in ``tmp_path/source``, in ``tmp_path/store``, made by the real engine."""
    record = run_now(plan or files_plan(tmp_path, contents=contents), **request)
    assert record.state == "committed", record.error
    return record
