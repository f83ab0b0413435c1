"""The start page: a card that says what is wrong first, and two steps of the setup."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.urls import reverse

from backups import keys
from backups.models import Artifact, BackupPlan, BackupRecord, ProofRun, StorageTarget, TargetState
from controlplane.console.base import Tone, badge, human_bytes, since
from controlplane.kernel import clock
from controlplane.kernel.registry import Card, SetupStep

from .overview import plans_with_schedules
from .standing import Standing, newest_sets, proof_cell, restore_words
from .when import next_words, read_when
from .words import OLD_PROOF_SECONDS, docs_link

MOST_PLANS = 4


def backups_now() -> dict[str, Any]:
    """The newest restore point of each plan, its proof, and what is wrong. Five queries."""
    now = clock.now()
    plans = list(plans_with_schedules().order_by("-enabled", "name")[:MOST_PLANS])
    newest = newest_sets(plans)
    history = reverse("admin:backups_backuprecord_changelist")
    return {
        "wrong": _wrong(plans, newest, now),
        "plans": [_plan(plan, newest.get(plan.pk), now) for plan in plans],
        "url": history,
        "health_url": reverse("admin:backups_health"),
        "plans_url": reverse("admin:backups_backupplan_changelist"),
    }


def _plan(plan: BackupPlan, newest: tuple[BackupRecord, Standing] | None, now: datetime) -> dict[str, Any]:
    when = read_when(plan.schedule, now)
    record, standing = newest if newest else (None, None)
    return {
        "name": plan.name,
        "saved": since(record.committed_at if record else None, now=now),
        "saved_url": reverse("admin:backups_backuprecord_change", args=(record.pk,)) if record else "",
        "size": human_bytes(record.stored_bytes) if record else "",
        "proof": proof_cell(standing, now) if standing else "",
        "restores_in": restore_words(standing) if standing else "",
        "next": next_words(when, now) if plan.enabled else badge("off", "muted", "pause_circle"),
    }


def _wrong(
    plans: list[BackupPlan], newest: dict[int, tuple[BackupRecord, Standing]], now: datetime
) -> list[dict[str, Any]]:
    """What is wrong, gravest first, each with where to look."""
    found: list[dict[str, Any]] = []

    def add(tone: Tone, text: str, url: str) -> None:
        found.append({"badge": badge(text, tone), "url": url, "rank": 0 if tone == "bad" else 1})

    history = reverse("admin:backups_backuprecord_changelist")
    if damaged := Artifact.objects.filter(
        damaged_at__isnull=False, record__state__in=("committed", "expiring")
    ).count():
        add("bad", f"{damaged} damaged artifact{'' if damaged == 1 else 's'}", f"{history}?proof=damaged")
    for state in TargetState.objects.filter(reachable=False).select_related("target"):
        url = reverse("admin:backups_storagetarget_change", args=(state.target_id,))
        add("bad", f"{state.target.name} is not reachable", url)
    for plan in plans:
        url = reverse("admin:backups_backupplan_change", args=(plan.pk,))
        record, standing = newest.get(plan.pk, (None, None))
        state_row = getattr(plan, "state", None)
        if plan.enabled and record is None and now - plan.created_at > timedelta(hours=1):
            add("bad", f"{plan.name} has no backup", url)
        elif plan.enabled and record is not None and _is_late(plan, record, now):
            add("bad", f"{plan.name}: older than {plan.rpo_hours} h", url)
        if standing is not None and _is_old(standing, now):
            add("warn", f"{plan.name}: proof is old", url)
        if state_row is not None and state_row.retention_frozen_at is not None:
            add("warn", f"{plan.name} deletes nothing", url)
    return sorted(found, key=lambda one: int(one["rank"]))


def _is_late(plan: BackupPlan, record: BackupRecord, now: datetime) -> bool:
    return record.committed_at is not None and now - record.committed_at > timedelta(hours=plan.rpo_hours)


def _is_old(standing: Standing, now: datetime) -> bool:
    return standing.at is not None and (now - standing.at).total_seconds() > OLD_PROOF_SECONDS


CARD = Card(name="backups", title="Backups", template="backups/card.html", context=backups_now)


def _drilled() -> bool:
    return bool(ProofRun.objects.filter(level=3, state="passed").exists())


def _is_elsewhere() -> bool:
    return bool(BackupPlan.objects.filter(enabled=True, target__kind=StorageTarget.Kind.S3).exists())


STEPS = (
    SetupStep(
        name="backups.recovery_key",
        label="Move the recovery key away",
        is_done=lambda: not keys.recovery_key_is_here(),
        url=lambda: docs_link("move-the-recovery-key-away"),
        help="It lies on the machine whose loss it is for. Copy it to a safe place, check the copy, delete it here.",
    ),
    SetupStep(
        name="backups.drill",
        label="Watch the first drill pass",
        is_done=_drilled,
        url=lambda: reverse("admin:backups_proofrun_changelist"),
        help="The newest backup is restored into scratch and compared with what was saved. It is asked for by itself "
        "after the first backup.",
    ),
    SetupStep(
        name="backups.elsewhere",
        label="Store sets elsewhere",
        is_done=_is_elsewhere,
        url=lambda: reverse("admin:backups_storagetarget_changelist"),
        help="Every plan stores on this machine: that survives a mistake, not a fire. Add a bucket and use it.",
    ),
)
