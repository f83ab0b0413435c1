"""What runs now: backups with bytes, rate and time left, proofs and restores; polled every two seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Max
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from backups.models import BackupEvent, BackupRecord, ProofEvent, ProofRun, RestoreEvent, RestoreRecord
from controlplane.console.base import human_bytes, human_seconds
from controlplane.kernel import clock

from .words import ACTIVE_PROOF, ACTIVE_RECORD, ENDED_RESTORE, LEVELS, PROOF_STATES, RECORD_STATES, RESTORE_STATES
from .words import state_badge as state

#: Told to the browser when a state has moved since the page was made: the page then loads its list again.
MOVED = "zt-backups-moved"


def progress_of(progress: Mapping[str, Any], started: datetime | None, now: datetime) -> dict[str, Any]:
    """A run's note of its progress for people: what is read, how fast, how long still. What is unknown is left out."""
    done, expected = _number(progress, "plain_bytes"), _number(progress, "expected_bytes")
    rate, stored = _number(progress, "rate_bytes_per_second"), _number(progress, "stored_bytes")
    remaining = (expected - done) / rate if done is not None and expected and rate and expected > done else None
    return {
        "source": str(progress.get("source") or progress.get("artifact") or ""),
        "position": progress.get("position"),
        "total": progress.get("of"),
        "bytes": human_bytes(done) if done is not None else "",
        "stored": human_bytes(stored) if stored else "",
        "expected": human_bytes(expected) if expected else "",
        "rate": f"{human_bytes(rate)}/s" if rate else "",
        "remaining": human_seconds(remaining) if remaining else "",
        "percent": min(99, int(100 * done / expected)) if done is not None and expected else None,
        "since": human_seconds(max(0.0, (now - started).total_seconds())) if started else "",
    }


def _number(progress: Mapping[str, Any], name: str) -> float | None:
    value = progress.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def backup_line(record: BackupRecord, now: datetime) -> dict[str, Any]:
    return {
        "what": "Backup",
        "name": record.name,
        "url": reverse("admin:backups_backuprecord_change", args=(record.pk,)),
        "badge": state(record.state, RECORD_STATES),
        "cancelling": record.cancel_requested_at is not None,
        "waits": record.state == "queued",
        "later": record.due_at if record.state == "queued" and record.due_at > now else None,
        "attempt": record.attempt if record.attempt > 1 else 0,
        **progress_of(record.progress or {}, record.started_at, now),
    }


def proof_line(proof: ProofRun, now: datetime) -> dict[str, Any]:
    progress = {"plain_bytes": proof.read_bytes or None, **(proof.progress or {})}
    return {
        "what": "Restore drill" if proof.level == 3 else f"Check {LEVELS[proof.level]}",
        "name": proof.record.name,
        "url": reverse("admin:backups_proofrun_change", args=(proof.pk,)),
        "badge": state(proof.state, PROOF_STATES),
        "cancelling": proof.cancel_requested_at is not None,
        "waits": proof.state == "queued",
        "attempt": proof.attempt if proof.attempt > 1 else 0,
        **progress_of(progress, proof.started_at, now),
    }


def restore_line(restore: RestoreRecord, now: datetime) -> dict[str, Any]:
    return {
        "what": "Restore",
        "name": restore.name,
        "url": reverse("admin:backups_restorerecord_change", args=(restore.pk,)),
        "badge": state(restore.state, RESTORE_STATES),
        "cancelling": restore.cancel_requested_at is not None,
        "waits": restore.state == "queued",
        "attempt": 0,
        **progress_of({}, restore.started_at, now),
    }


def active(record: BackupRecord | None = None) -> tuple[list[BackupRecord], list[ProofRun], list[RestoreRecord]]:
    """What is waited for or worked on: of the whole system, or of one restore point. Three queries."""
    records = BackupRecord.objects.filter(state__in=(*ACTIVE_RECORD, "deleting"))
    proofs = ProofRun.objects.filter(state__in=ACTIVE_PROOF).select_related("record")
    restores = RestoreRecord.objects.exclude(state__in=ENDED_RESTORE)
    if record is not None:
        records, proofs, restores = (
            records.filter(pk=record.pk),
            proofs.filter(record=record),
            restores.filter(record=record),
        )
    return list(records[:20]), list(proofs[:20]), list(restores[:20])


def live_panel(now: datetime, record: BackupRecord | None = None) -> dict[str, Any]:
    """The context of the panel, and the mark by which a later poll sees that a state has moved."""
    records, proofs, restores = active(record)
    lines = [backup_line(one, now) for one in records if one.state in ACTIVE_RECORD]
    lines += [proof_line(one, now) for one in proofs]
    lines += [restore_line(one, now) for one in restores]
    return {"lines": lines, "seen": _mark(record)}


def _mark(record: BackupRecord | None) -> str:
    """Changes with every event, so that a run which began and ended between two polls is noticed too."""
    newest = []
    for event, owner in ((BackupEvent, ""), (ProofEvent, "__record"), (RestoreEvent, "__record")):
        rows = event.objects.all() if record is None else event.objects.filter(**{f"subject{owner}": record})
        newest.append(rows.order_by().aggregate(last=Max("pk"))["last"])
    return hashlib.sha256(repr(newest).encode()).hexdigest()[:12]


def live_response(request: HttpRequest, url: str, record: BackupRecord | None = None) -> HttpResponse:
    """The answer to a poll; where a state has moved since the page was made it says so by an event."""
    panel = live_panel(clock.now(), record)
    response = render(request, "admin/backups/live.html", {"live": panel, "live_url": url})
    response["Cache-Control"] = "no-store"
    if request.GET.get("seen", "") != panel["seen"]:
        response["HX-Trigger"] = MOVED
    return response
