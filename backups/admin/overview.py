"""What stands above the history: each plan's last thirty days, its next run, its trend of size, and what runs now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count, Min, Q, Sum
from django.urls import reverse

from backups.models import Artifact, BackupPlan, BackupRecord
from controlplane.console.base import badge, human_bytes, human_seconds, since

from . import tracker
from .live import live_panel
from .standing import Standing, newest_sets, proof_cell
from .when import next_words, read_when

#: Plans that are drawn; more would bury the history.
MOST_PLANS = 6


def plans_with_schedules() -> Any:
    """Plans as the pages need them, in one query."""
    return BackupPlan.objects.defer("target__secret_access_key").select_related(
        "target", "state", "schedule__crontab", "schedule__interval", "drill_schedule__crontab",
        "drill_schedule__interval",
    )  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """A whole set of a plan as the overview looks at it; ``restored_at``: the oldest of the drills that it rests on."""

    pk: int
    name: str
    state: str
    at: datetime
    committed_at: datetime | None
    plain_bytes: int
    stored_bytes: int
    restored_at: datetime | None
    restore_seconds: float | None


def overview(now: datetime) -> dict[str, Any]:
    """The context of the panel: a fixed number of queries, however many plans, records and artifacts there are."""
    plans = list(plans_with_schedules().order_by("-enabled", "name")[: MOST_PLANS + 1])
    newest, sets = newest_sets(plans), _sets(plans, now)
    return {
        "plans": [_plan(plan, sets.get(plan.pk, []), newest.get(plan.pk), now) for plan in plans[:MOST_PLANS]],
        "more_plans": len(plans) > MOST_PLANS,
        "plans_url": reverse("admin:backups_backupplan_changelist"),
        "legend": [{"kind": kind, "text": text} for kind, text in tracker.WORDS.items() if kind != "running"],
        "live": live_panel(now),
    }


def _sets(plans: Sequence[BackupPlan], now: datetime) -> dict[int, list[Whole]]:
    """The whole sets of the last days, oldest first. A part of a plan (before a restore, say) is neither its night's
    backup nor a step of its trend.
    """
    begin = now - timedelta(days=tracker.DAYS + 1)
    wanted = BackupRecord.objects.filter(
        Q(created_at__gte=begin) | Q(scheduled_for__gte=begin), plan__in=[plan.pk for plan in plans], only_sources=[]
    )
    sound = Q(l3_at__isnull=False, damaged_at__isnull=True)
    drills = Artifact.objects.filter(record__in=wanted.values("pk")).order_by().values("record_id")
    counted = {
        row["record_id"]: row
        for row in drills.annotate(
            parts=Count("pk"), sound=Count("pk", filter=sound), at=Min("l3_at"), seconds=Sum("restore_seconds")
        )
    }
    found: dict[int, list[Whole]] = {}
    rows = wanted.order_by("created_at").values_list(
        "plan_id", "pk", "name", "state", "scheduled_for", "created_at", "committed_at", "plain_bytes", "stored_bytes"
    )
    for plan_id, pk, name, state, scheduled_for, created_at, committed_at, plain, stored in rows:
        drill = counted.get(pk)
        restored = drill is not None and drill["sound"] == drill["parts"]
        at, seconds = (drill["at"], drill["seconds"]) if drill is not None and restored else (None, None)
        whole = Whole(pk, name, state, scheduled_for or created_at, committed_at, plain, stored, at, seconds)
        found.setdefault(plan_id or 0, []).append(whole)
    return found


def _plan(
    plan: BackupPlan, sets: Sequence[Whole], newest: tuple[BackupRecord, Standing] | None, now: datetime
) -> dict[str, Any]:
    when = read_when(plan.schedule, now)
    days = tracker.days_until(now.astimezone(when.zone).date())
    expected: set[date] = set()
    if plan.enabled and when.enabled and when.cron is not None:
        expected = tracker.expected_days(when.cron, when.zone, days, plan.created_at, now)
    runs = [
        tracker.Run(
            one.pk, one.name, one.at, one.state, one.committed_at is not None, one.restored_at is not None
        )
        for one in sets
    ]  # fmt: skip
    kept = [one for one in sets if one.committed_at is not None]
    drilled = [one for one in kept if one.restored_at is not None]
    seconds = next((one.restore_seconds for one in reversed(drilled) if one.restore_seconds is not None), None)
    record = newest[0] if newest else None
    state = getattr(plan, "state", None)
    return {
        "pk": plan.pk,
        "name": plan.name,
        "url": reverse("admin:backups_backupplan_change", args=(plan.pk,)),
        "words": when.words,
        "next": next_words(when, now) if plan.enabled else badge("off", "muted", "pause_circle"),
        "cells": [_cell(cell, plan) for cell in tracker.cells(days, runs, when.zone, expected)],
        "last": since(record.committed_at if record else None, now=now),
        "last_name": record.name if record else "",
        "last_url": reverse("admin:backups_backuprecord_change", args=(record.pk,)) if record else "",
        "proof": proof_cell(newest[1], now) if newest else "",
        "proven": since(max((one.restored_at for one in drilled if one.restored_at), default=None), now=now),
        "restores_in": human_seconds(seconds) if seconds is not None else "not measured",
        "size": human_bytes(record.stored_bytes) if record else "–",
        "frozen": state.retention_frozen_reason if state and state.retention_frozen_at else "",
        "chart": _chart(kept),
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


def _chart(kept: Sequence[Whole]) -> dict[str, Any] | None:
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
