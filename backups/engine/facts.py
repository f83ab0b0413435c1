"""What the pure judges look at, read from the rows of a plan in a few queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from backups.models import Artifact, BackupPlan, BackupRecord, ProofRun, RestoreRecord
from backups.retention import Figures, Rules, Set

#: Restores that are over; all others hold on to their set and to their safety backup.
_RESTORES_OVER = ("done", "rolled_back", "failed", "refused", "cancelled")
_PRESENT = ("committed", "expiring")
#: Numbers of a summary that count what is lost if it shrinks. Files are none: logs come and go.
_ROWS = ("rows", "records", "documents", "vectors", "embeddings", "keys", "objects")


def rules_of(plan: BackupPlan) -> Rules:
    return Rules(**{rule: getattr(plan, rule) for rule in BackupPlan.RULES})


def kept_records(plan: BackupPlan) -> QuerySet[BackupRecord]:
    """The plan's restore points that exist, marked ones too. A plan made anew keeps those of its name."""
    present = BackupRecord.objects.filter(plan_name=plan.name, state__in=_PRESENT, committed_at__isnull=False)
    return present.prefetch_related("artifacts").order_by("-committed_at", "-pk")


def made_until(plan: BackupPlan, now: datetime) -> QuerySet[BackupRecord]:
    """The same without sets from the future (a clock was wrong): those are not the newest of anything."""
    return kept_records(plan).filter(committed_at__lte=now)


def sets_of(records: Iterable[BackupRecord]) -> list[Set]:
    """One fact per record; what uses them is looked up for all at once."""
    records = list(records)
    users = in_use(records)
    return [
        Set(
            key=record.pk,
            at=record.scheduled_for or record.started_at or record.committed_at or record.created_at,
            verified=is_verified(record.artifacts.all()),
            sound=not record.only_sources and all(part.damaged_at is None for part in record.artifacts.all()),
            pinned=record.pinned_at is not None,
            in_use_by=users.get(record.pk, ""),
        )
        for record in records
    ]


def is_verified(artifacts: Iterable[Artifact]) -> bool:
    """Every part was read through (L2) or restored (L3), and none was found damaged since."""
    levels = [artifact.proof_level for artifact in artifacts]
    return bool(levels) and all(level is not None and level >= ProofRun.Level.L2 for level in levels)


def in_use(records: Sequence[BackupRecord]) -> dict[int, str]:
    """Record -> what reads it, or may go back to it, at the moment."""
    keys = [record.pk for record in records]
    found: dict[int, str] = {}
    # One that waits holds nothing: without a proof worker it would wait, and hold every set, for ever.
    for proof in ProofRun.objects.filter(record__in=keys, state="running"):
        found[proof.record_id] = f"a proof (L{proof.level})"
    going = RestoreRecord.objects.exclude(state__in=_RESTORES_OVER)
    for restore in going.filter(record__in=keys) | going.filter(safety_record__in=keys):
        for key in (restore.record_id, restore.safety_record_id):
            if key is not None:
                found[key] = restore.name
    return found


def figures_of(record: BackupRecord) -> Figures:
    artifacts = list(record.artifacts.all())
    rows = {artifact.name: _rows(artifact.summary) for artifact in artifacts}
    return Figures(
        plain_bytes={artifact.name: artifact.plain_bytes for artifact in artifacts},
        rows={name: count for name, count in rows.items() if count is not None},
    )


def _rows(summary: Mapping[str, Any]) -> int | None:
    numbers = [value for name in _ROWS if isinstance(value := summary.get(name), int) and not isinstance(value, bool)]
    return max(numbers) if numbers else None
