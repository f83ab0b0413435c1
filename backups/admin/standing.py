"""What is proven of a restore point: the level that all its artifacts reach, since when, how long a restore takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import OuterRef, Prefetch, QuerySet, Subquery
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import Artifact, BackupPlan, BackupRecord
from controlplane.console.base import badge, human_seconds, since

from .words import LEVEL_MEANS, LEVELS, OLD_PROOF_SECONDS, small

#: The columns that a standing is worked out from: an artifact's row is large (its parts, its settings).
COLUMNS = ("record_id", "name", "position", "l0_at", "l1_at", "l2_at", "l3_at", "damaged_at", "restore_seconds")


@dataclass(frozen=True)
class Standing:
    """``level`` None: at least one artifact is not proven at all. ``at``: the oldest proof that the level rests on."""

    level: int | None
    at: datetime | None
    damaged: tuple[str, ...]
    artifacts: int
    restore_seconds: float | None
    measured: int

    @property
    def is_restored(self) -> bool:
        return self.level == 3


def level_at(artifact: Artifact, level: int) -> datetime | None:
    """When this artifact was last seen to hold at ``level`` or above."""
    times = (artifact.l0_at, artifact.l1_at, artifact.l2_at, artifact.l3_at)[level:]
    return max((at for at in times if at is not None), default=None)


def standing_of(artifacts: Iterable[Artifact]) -> Standing:
    """The standing of one restore point, from its artifacts."""
    found = list(artifacts)
    damaged = tuple(artifact.name for artifact in found if artifact.damaged_at is not None)
    levels = [artifact.proof_level for artifact in found]
    level = None if not levels or None in levels else min(one for one in levels if one is not None)
    times = [] if level is None else [level_at(artifact, level) for artifact in found]
    seconds = [artifact.restore_seconds for artifact in found if artifact.restore_seconds is not None]
    return Standing(
        level=level,
        at=min((at for at in times if at is not None), default=None),
        damaged=damaged,
        artifacts=len(found),
        restore_seconds=sum(seconds) if seconds else None,
        measured=len(seconds),
    )


def with_artifacts(records: QuerySet[BackupRecord]) -> QuerySet[BackupRecord]:
    """The records with the slim artifacts that :func:`standing_of` needs, in one more query."""
    return records.prefetch_related(
        Prefetch("artifacts", queryset=Artifact.objects.only(*COLUMNS), to_attr="slim_artifacts")
    )


def standing_of_record(record: BackupRecord) -> Standing:
    """For a record that :func:`with_artifacts` has loaded."""
    slim: Sequence[Artifact] = record.slim_artifacts  # type: ignore[attr-defined]  # put there by the prefetch
    return standing_of(slim)


def newest_sets(plans: Iterable[BackupPlan]) -> dict[int, tuple[BackupRecord, Standing]]:
    """Plan -> its newest whole set that is in the store, with its standing. Three queries, however many sets."""
    whole = BackupRecord.objects.filter(plan=OuterRef("pk"), state__in=("committed", "expiring"), only_sources=[])
    latest = Subquery(whole.order_by("-committed_at").values("pk")[:1])
    keys = BackupPlan.objects.filter(pk__in=[plan.pk for plan in plans]).annotate(latest=latest)
    found = with_artifacts(BackupRecord.objects.filter(pk__in=keys.values_list("latest", flat=True)))
    return {record.plan_id or 0: (record, standing_of_record(record)) for record in found}


def level_badge(level: int | None, damaged: bool = False) -> SafeString:
    """One artifact's or one record's level as a badge."""
    if damaged:
        return badge("Damaged", "bad", "heart_broken")
    if level is None:
        return badge("Not proven yet", "warn", "help")
    shown = badge(LEVELS[level], "ok" if level == 3 else "info", "verified" if level == 3 else "fact_check")
    return format_html('<span title="{}">{}</span>', LEVEL_MEANS[level], shown)


def proof_cell(standing: Standing, now: datetime) -> SafeString:
    """``L3 restored, 2 h ago``; what is damaged comes first."""
    if standing.damaged:
        names = ", ".join(standing.damaged)
        return format_html("{}{}", level_badge(None, damaged=True), small(names))
    if standing.level is None or standing.at is None:
        return level_badge(None)
    old = (now - standing.at).total_seconds() > OLD_PROOF_SECONDS
    mark = format_html(" {}", badge("old", "warn", "history")) if old else ""
    age = format_html('<small class="zt-line zt-muted-text">{}{}</small>', since(standing.at, now=now), mark)
    return format_html("{}{}", level_badge(standing.level), age)


def restore_words(standing: Standing) -> str:
    """The measured restore time; with what is missing where not every artifact was drilled."""
    if standing.restore_seconds is None:
        return "not measured"
    text = human_seconds(standing.restore_seconds)
    if standing.measured < standing.artifacts:
        return f"{text} for {standing.measured} of {standing.artifacts}"
    return text
