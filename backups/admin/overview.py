"""What stands above the history: each plan's last thirty days, its next run, its trend of size, and what runs now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.urls import reverse

from backups.models import BackupPlan, BackupRecord
from controlplane.console.base import badge, human_bytes, since

from . import tracker
from .live import live_panel
from .standing import Standing, proof_cell, restore_words, standing_of_record, with_artifacts
from .when import next_words, read_when

#: Plans that are drawn; more would bury the history.
MOST_PLANS = 6

#: The columns of the records that the overview reads.
_COLUMNS = (
    "name", "plan_id", "state", "trigger", "scheduled_for", "created_at", "committed_at", "plain_bytes", "stored_bytes",
    "only_sources",
)  # fmt: skip


def plans_with_schedules() -> Any:
    """Plans as the pages need them, in one query."""
    return BackupPlan.objects.select_related(
        "target", "state", "schedule__crontab", "schedule__interval", "drill_schedule__crontab",
        "drill_schedule__interval",
    )  # fmt: skip


def overview(now: datetime) -> dict[str, Any]:
    """The context of the panel: four queries, however many plans and records there are."""
    plans = list(plans_with_schedules().order_by("-enabled", "name")[: MOST_PLANS + 1])
    begin = now - timedelta(days=tracker.DAYS + 1)
    wanted = Q(created_at__gte=begin) | Q(scheduled_for__gte=begin)
    records = with_artifacts(
        BackupRecord.objects.filter(wanted, plan__in=[plan.pk for plan in plans]).only(*_COLUMNS).order_by("created_at")
    )
    by_plan: dict[int, list[tuple[BackupRecord, Standing]]] = {plan.pk: [] for plan in plans}
    for record in records:
        if record.only_sources:
            continue  # a part of the plan (before a restore, say) is neither its night's backup nor a step of its trend
        by_plan[record.plan_id or 0].append((record, standing_of_record(record)))
    shown = [_plan(plan, by_plan[plan.pk], now) for plan in plans[:MOST_PLANS]]
    return {
        "plans": shown,
        "more_plans": len(plans) > MOST_PLANS,
        "plans_url": reverse("admin:backups_backupplan_changelist"),
        "legend": [{"kind": kind, "text": text} for kind, text in tracker.WORDS.items() if kind != "running"],
        "live": live_panel(now),
    }


def _plan(plan: BackupPlan, found: Sequence[tuple[BackupRecord, Standing]], now: datetime) -> dict[str, Any]:
    when = read_when(plan.schedule, now)
    days = tracker.days_until(now.astimezone(when.zone).date())
    expected: set[Any] = set()
    if plan.enabled and when.enabled and when.cron is not None:
        expected = tracker.expected_days(when.cron, when.zone, days, plan.created_at, now)
    runs = [
        tracker.Run(
            record.pk, record.name, record.scheduled_for or record.created_at, record.state,
            record.committed_at is not None, standing.is_restored,
        )
        for record, standing in found
    ]  # fmt: skip
    kept = [(record, standing) for record, standing in found if record.committed_at is not None]
    last = kept[-1] if kept else None
    proven = max((standing.at for _, standing in kept if standing.is_restored and standing.at), default=None)
    state = getattr(plan, "state", None)
    return {
        "pk": plan.pk,
        "name": plan.name,
        "url": reverse("admin:backups_backupplan_change", args=(plan.pk,)),
        "words": when.words,
        "next": next_words(when, now) if plan.enabled else badge("off", "muted", "pause_circle"),
        "cells": [_cell(cell, plan) for cell in tracker.cells(days, runs, when.zone, expected)],
        "last": since(last[0].committed_at, now=now) if last else since(None),
        "last_name": last[0].name if last else "",
        "last_url": reverse("admin:backups_backuprecord_change", args=(last[0].pk,)) if last else "",
        "proof": proof_cell(last[1], now) if last else "",
        "proven": since(proven, now=now),
        "restores_in": next((restore_words(one) for _, one in reversed(kept) if one.measured), "not measured"),
        "size": human_bytes(last[0].stored_bytes) if last else "–",
        "frozen": state.retention_frozen_reason if state and state.retention_frozen_at else "",
        "chart": _chart([record for record, _ in kept]),
    }


def _cell(cell: tracker.Cell, plan: BackupPlan) -> dict[str, str]:
    if len(cell.runs) == 1:
        url = reverse("admin:backups_backuprecord_change", args=(cell.runs[0].pk,))
    elif cell.runs:
        query = {
            "plan__id__exact": plan.pk,
            "created_at__gte": f"{cell.day} 00:00:00+00:00",
            "created_at__lt": f"{cell.day + timedelta(days=1)} 00:00:00+00:00",
        }
        url = f"{reverse('admin:backups_backuprecord_changelist')}?{urlencode(query)}"
    else:
        url = reverse("admin:backups_backupplan_change", args=(plan.pk,))
    return {"kind": cell.kind, "text": cell.text, "url": url}


def _chart(kept: Sequence[BackupRecord]) -> dict[str, Any] | None:
    """The points of the trend of size; None where two are not there yet."""
    if len(kept) < 2:
        return None
    return {
        "at": [int(record.committed_at.timestamp() * 1000) for record in kept if record.committed_at],
        "plain": [record.plain_bytes for record in kept],
        "stored": [record.stored_bytes for record in kept],
        "shown": [
            {"name": record.name, "plain": human_bytes(record.plain_bytes), "stored": human_bytes(record.stored_bytes)}
            for record in kept[-12:]
        ],
    }
