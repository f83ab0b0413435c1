"""What the page of one restore point shows: facts, artifacts with their proof, warnings, events, proofs, restores."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import Artifact, BackupRecord
from backups.recovery_line import line_for
from controlplane.console.base import badge, human_bytes, human_seconds, since
from controlplane.kernel.errors import ZantaraError

from .live import live_panel
from .standing import Standing, level_at, level_badge, proof_cell, restore_words, standing_of
from .words import (
    LEVEL_MEANS,
    LEVELS,
    PROOF_STATES,
    RECORD_STATES,
    RESTORE_STATES,
    docs_link,
    kind_label,
    moment,
    people_words,
    ratio,
    sizes,
    state_badge,
    took,
    trigger_label,
)

#: Rows of a table; older ones are in the lists of their own.
MOST_ROWS = 20
MOST_PARTS = 50


def record_page(record: BackupRecord, now: datetime) -> dict[str, Any]:
    """The context; seven queries beside the record's own, however many artifacts there are."""
    artifacts = list(record.artifacts.all())
    standing = standing_of(artifacts)
    events = list(record.events.order_by("-at", "-pk")[:100])
    return {
        "record": record,
        "state": state_badge(record.state, RECORD_STATES),
        "facts": _facts(record, standing, now),
        "sentence": _sentence(record, standing),
        "proof": proof_cell(standing, now) if record.committed_at else "",
        "problems": _problems(record, artifacts),
        "artifacts": [_artifact(artifact, record, now) for artifact in artifacts],
        "events": [_event(event, now) for event in events],
        "proofs": [_proof(proof) for proof in record.proofs.all()[:MOST_ROWS]],
        "restores": [
            {
                "name": restore.name,
                "url": reverse("admin:backups_restorerecord_change", args=(restore.pk,)),
                "state": state_badge(restore.state, RESTORE_STATES),
                "parts": ", ".join(restore.artifacts),
                "by": restore.requested_by,
                "when": since(restore.created_at),
                "took": took(restore.started_at, restore.finished_at),
            }
            for restore in record.restores.all()[:MOST_ROWS]
        ],
        "live": live_panel(now, record),
        "live_url": reverse("admin:backups_backuprecord_record_live", args=(record.pk,)),
        "recover_docs": docs_link("recover-a-dead-machine"),
        "levels": [{"name": name, "means": means} for name, means in zip(LEVELS, LEVEL_MEANS, strict=True)],
    }


def _sentence(record: BackupRecord, standing: Standing) -> str:
    """What an operator wants to know first, in words."""
    if record.state in ("queued", "running"):
        return "Not a restore point yet."
    if record.committed_at is None:
        return "There is no restore point: nothing of it is kept."
    if record.state == "deleted":
        return f"Deleted; {human_bytes(record.freed_bytes)} were freed. This record stays."
    if standing.damaged:
        return f"Damage was found in {', '.join(standing.damaged)}."
    if standing.level is None:
        return "Saved; not proven yet."
    if standing.is_restored:
        return f"Everything in it was restored in a drill, which took {restore_words(standing)}."
    return f"Proven up to {LEVELS[standing.level]}: {LEVEL_MEANS[standing.level]}"


def _facts(record: BackupRecord, standing: Standing, now: datetime) -> list[tuple[str, object]]:
    by = f", by {record.requested_by}" if record.requested_by else ""
    plan: object = record.plan_name
    if record.plan_id is not None:
        url = reverse("admin:backups_backupplan_change", args=(record.plan_id,))
        plan = format_html('<a href="{}">{}</a>', url, record.plan_name)
    target_url = reverse("admin:backups_storagetarget_change", args=(record.target_id,))
    smaller = ratio(record.plain_bytes, record.stored_bytes)
    facts: list[tuple[str, object]] = [
        ("Id", _hash(record.name)),
        ("Plan", plan),
        ("Begun", f"{trigger_label(record)}{by}"),
        ("Reason", record.reason),
        ("Scheduled for", moment(record.scheduled_for) if record.scheduled_for else ""),
        ("Started", since(record.started_at, now=now) if record.started_at else ""),
        ("Took", took(record.started_at, record.committed_at or record.finished_at)),
        ("Attempt", record.attempt if record.attempt > 1 else ""),
        ("Size", f"{sizes(record.plain_bytes, record.stored_bytes)}{f' ({smaller})' if smaller else ''}"),
        ("Only", ", ".join(record.only_sources)),
        ("A restore takes", restore_words(standing) if record.committed_at else ""),
        ("Stored in", format_html('<a href="{}">{}</a>', target_url, record.target.name)),
        ("Folder", _hash(record.prefix)),
        ("Manifest, SHA-256", _hash(record.manifest_sha256)),
        ("Pinned", f"by {record.pinned_by}: {record.pin_reason}" if record.pinned_at else ""),
        ("Kept because", ", ".join(map(str, record.keep_reasons)) if record.state == "committed" else ""),
        ("Deleted on", moment(record.expires_at) if record.state == "expiring" else ""),
    ]  # fmt: skip
    return [(name, shown) for name, shown in facts if shown != ""]


def _hash(text: str) -> SafeString | str:
    return format_html('<span class="zt-hash">{}</span>', text) if text else ""


def _problems(record: BackupRecord, artifacts: list[Artifact]) -> list[dict[str, Any]]:
    found = []
    if record.error and record.state != "committed":
        found.append({"title": "What went wrong", "detail": record.error})
    if record.delete_error:
        tries = f" ({record.delete_attempts} attempts)" if record.delete_attempts else ""
        found.append({"title": f"Deleting did not work{tries}; it is tried again", "detail": record.delete_error})
    for artifact in artifacts:
        if artifact.damaged_at is not None:
            title = f"{artifact.name} is damaged, found {moment(artifact.damaged_at)}"
            found.append({"title": title, "detail": artifact.damage})
    return found


def _artifact(artifact: Artifact, record: BackupRecord, now: datetime) -> dict[str, Any]:
    level = artifact.proof_level
    parts = artifact.parts or []
    return {
        "pk": artifact.pk,
        "name": artifact.name,
        "kind": kind_label(artifact.kind),
        "summary": people_words(artifact.summary or {}),
        "plain": human_bytes(artifact.plain_bytes),
        "compressed": human_bytes(artifact.compressed_bytes) if artifact.compressed else "not compressed",
        "stored": human_bytes(artifact.stored_bytes),
        "sizes": sizes(artifact.plain_bytes, artifact.stored_bytes),
        "ratio": ratio(artifact.plain_bytes, artifact.stored_bytes),
        "level": level_badge(level, artifact.damaged_at is not None),
        "age": since(level_at(artifact, level), now=now) if level is not None else "",
        "damage": artifact.damage if artifact.damaged_at else "",
        "climbs": [
            {"name": LEVELS[number], "at": since(at, now=now)}
            for number, at in enumerate((artifact.l0_at, artifact.l1_at, artifact.l2_at, artifact.l3_at))
        ],
        "restore": human_seconds(artifact.restore_seconds) if artifact.restore_seconds is not None else "",
        "captured": took(artifact.captured_from_at, artifact.captured_to_at),
        "captured_at": moment(artifact.captured_from_at),
        "plain_sha256": artifact.plain_sha256,
        "stored_sha256": artifact.stored_sha256,
        "parts": [
            {"name": part.get("name"), "size": human_bytes(part.get("size", 0)), "sha256": part.get("sha256")}
            for part in parts[:MOST_PARTS]
        ],
        "more_parts": max(0, len(parts) - MOST_PARTS),
        "part_count": len(parts),
        "tools": ", ".join(f"{name} {version}" for name, version in (artifact.tools or {}).items()),
        "warnings": artifact.warnings or [],
        "settings": [(name, _setting(value)) for name, value in (artifact.settings or {}).items()],
        "line": _line(artifact, record) if record.committed_at and record.state != "deleted" else "",
    }


def _setting(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value not in ("", None) else "none"


def _line(artifact: Artifact, record: BackupRecord) -> str:
    try:
        return line_for(artifact, record)
    except ZantaraError as unknown:  # of a kind that no code here brings any more
        return str(unknown)


def _event(event: Any, now: datetime) -> dict[str, Any]:
    moved = event.from_state != event.to_state
    return {
        "when": since(event.at, now=now),
        "at": moment(event.at),
        "state": state_badge(event.to_state, RECORD_STATES) if moved else badge("Note", "muted", "edit_note"),
        "reason": event.reason,
        "actor": event.actor,
    }


def _proof(proof: Any) -> dict[str, Any]:
    return {
        "name": LEVELS[proof.level],
        "url": reverse("admin:backups_proofrun_change", args=(proof.pk,)),
        "state": state_badge(proof.state, PROOF_STATES),
        "by": proof.requested_by or trigger_label(proof),
        "when": since(proof.finished_at or proof.started_at or proof.created_at),
        "took": took(proof.started_at, proof.finished_at),
    }
