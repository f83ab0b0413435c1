"""The moves of a run's row that end it. Each is one UPDATE under the lease, which it gives back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction

from backups import metrics
from backups.machines import RECORD
from backups.manifest import Manifest, ManifestArtifact
from backups.models import Artifact, BackupEvent, BackupRecord, BackupSource
from controlplane.kernel import transitions
from controlplane.kernel.leases import RELEASED, Lease
from controlplane.kernel.logs import redact_text

from . import notices
from .steps import step_reached

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 3
#: After the first attempt and after the second.
BACKOFF = (timedelta(minutes=1), timedelta(minutes=5))
MOST_ERROR = 4000


def committed(record: BackupRecord, manifest: Manifest, digest: str, *, lease: Lease, reason: str = "") -> bool:
    """The set is whole in the store: say so in the row, with its artifacts. False: somebody else moved it.

    LeaseLost, with nothing written, where the run is not ours any more.
    """
    figures = {
        name: sum(getattr(artifact, name) for artifact in manifest.artifacts)
        for name in ("plain_bytes", "compressed_bytes", "stored_bytes")
    }
    with transaction.atomic():
        moved = _advance(
            record, "committed", lease=lease, reason=reason, now=manifest.committed_at,
            changes={
                **figures,
                "committed_at": manifest.committed_at,
                "finished_at": manifest.committed_at,
                "manifest_sha256": digest,
                "warnings": list(manifest.warnings),
                "progress": {},
                "error": "",
            },
        )  # fmt: skip
        if not moved:
            return False
        record.artifacts.all().delete()
        sources = dict(BackupSource.objects.values_list("name", "pk"))
        for artifact in manifest.artifacts:
            artifact_row(record, artifact, sources.get(artifact.name)).save()
        if record.attempt > 1:
            notices.tell_hard_won(record)
    step_reached("row_committed")
    metrics.runs.add((record.plan_name, "committed"))
    log.info("backup_committed", backup=record.name, stored_bytes=record.stored_bytes, attempt=record.attempt)
    return True


def artifact_row(record: BackupRecord, artifact: ManifestArtifact, source_id: int | None = None) -> Artifact:
    """The row, not saved, that says of an artifact what the signed manifest says."""
    return Artifact(
        record=record,
        source_id=source_id,
        name=artifact.name,
        kind=artifact.kind,
        position=artifact.position,
        settings=dict(artifact.settings),
        captured_from_at=artifact.captured_from_at,
        captured_to_at=artifact.captured_to_at,
        plain_bytes=artifact.plain_bytes,
        compressed_bytes=artifact.compressed_bytes,
        stored_bytes=artifact.stored_bytes,
        plain_sha256=artifact.plain_sha256,
        stored_sha256=artifact.stored_sha256,
        compressed=artifact.compressed,
        parts=[{"name": part.name, "size": part.size, "sha256": part.sha256} for part in artifact.parts],
        tools=dict(artifact.tools),
        summary=dict(artifact.summary),
        expectations=dict(artifact.expectations),
        warnings=list(artifact.warnings),
    )


def failed(record: BackupRecord, error: str, *, lease: Lease, now: datetime, undone: bool) -> bool:
    """Over, without a restore point; somebody is told. ``undone``: nothing of it is left in the store."""
    error = redact_text(error)[:MOST_ERROR]
    with transaction.atomic():
        moved = _advance(
            record, "failed", lease=lease, reason=error, now=now,
            changes={"error": error, "finished_at": now, "progress": {}} | _prefix(undone),
        )  # fmt: skip
        if moved:
            notices.tell_failed(record)
    if moved:
        metrics.runs.add((record.plan_name, "failed"))
        log.warning("backup_failed", backup=record.name, error=error)
    return moved


def cancelled(record: BackupRecord, *, lease: Lease, now: datetime, undone: bool) -> bool:
    """Over, as somebody asked."""
    moved = _advance(
        record, "cancelled", lease=lease, reason="stopped as asked", now=now, actor=record.cancel_requested_by,
        changes={"error": "", "finished_at": now, "progress": {}} | _prefix(undone),
    )  # fmt: skip
    if moved:
        metrics.runs.add((record.plan_name, "cancelled"))
        log.info("backup_cancelled", backup=record.name)
    return moved


def again(record: BackupRecord, why: str, *, lease: Lease, now: datetime) -> bool:
    """Another attempt, with a new set in a new place, after a while."""
    why = redact_text(why)[:MOST_ERROR]
    due_at = now + BACKOFF[min(record.attempt, len(BACKOFF)) - 1]
    with transaction.atomic():
        moved = _advance(
            record, "queued", lease=lease, reason=why, now=now,
            changes={"error": why, "due_at": due_at, "progress": {}, "prefix": "", "set_id": None},
        )  # fmt: skip
    if moved:
        metrics.runs.add((record.plan_name, "repeated"))
        log.warning("backup_will_be_repeated", backup=record.name, why=why, due_at=due_at.isoformat())
    return moved


def may_repeat(record: BackupRecord) -> bool:
    """A safety backup is waited for: whoever waits decides what to do without it."""
    return record.attempt < MOST_ATTEMPTS and record.trigger != BackupRecord.Trigger.SAFETY


def _prefix(undone: bool) -> dict[str, Any]:
    # A row that is over and still has a prefix is one whose objects the next ticks delete.
    return {"prefix": ""} if undone else {}


def _advance(
    record: BackupRecord, to: str, *, lease: Lease, reason: str, now: datetime, changes: dict[str, Any], actor: str = ""
) -> bool:
    return transitions.advance(
        record, to, machine=RECORD, event=BackupEvent, reason=reason, actor=actor or lease.owner, now=now, lease=lease,
        changes={**changes, **RELEASED},
    )  # fmt: skip


__all__ = ["again", "artifact_row", "cancelled", "committed", "failed", "may_repeat"]
