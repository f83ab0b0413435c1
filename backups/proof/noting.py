"""What a climb showed, written to the artifact's row: levels, coverage, damage; all under the proof's lease."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from backups.models import Artifact, ProofRun
from controlplane.kernel.leases import Lease
from controlplane.kernel.logs import redact_text

from .ladder import Climb

_MOST_DETAIL = 1000
#: The damage's text begins with the level that found it: only a proof of that level or above takes it back.
_MARK = "L{level}: "


def note(
    climb: Climb, name: str, proof: ProofRun, lease: Lease, findings: list[dict[str, Any]], *, at: datetime
) -> None:
    """Add the climb's findings to the proof's, and to the artifact what is now known of it. LeaseLost, with nothing
    written, where the proof is another worker's.
    """
    findings += [
        {"artifact": name, **finding, "detail": redact_text(finding["detail"])[:_MOST_DETAIL]}
        for finding in climb.findings
    ]
    with transaction.atomic():
        lease.guarded_update(findings=findings)  # locks the proof's row: the next line is ours, too
        artifact = Artifact.objects.filter(record_id=proof.record_id, name=name).first()
        if artifact is not None:
            artifact.save(update_fields=apply(climb, artifact, at))


def apply(climb: Climb, artifact: Artifact, at: datetime) -> list[str]:
    """Change the row (not saved) as the climb says; the names of the changed columns."""
    changed = ["coverage"]
    parts = {part["name"] for part in artifact.parts}
    seen = {name: when for name, when in (artifact.coverage or {}).items() if name in parts}
    artifact.coverage = seen | {name: at.isoformat() for name in climb.hashed if name in parts}
    if climb.failed:
        first = next(finding for finding in climb.findings if finding["status"] == "fail")
        artifact.damaged_at = artifact.damaged_at or at
        artifact.damage = redact_text(_MARK.format(level=first["level"]) + first["detail"])
        return [*changed, "damaged_at", "damage"]
    if climb.reached is None:
        return changed
    for level in (0, 2, 3):
        # A drill reads and parses everything, so it stands for the levels below it.
        if level <= climb.reached:
            setattr(artifact, f"l{level}_at", at)
            changed.append(f"l{level}_at")
    if parts and parts <= artifact.coverage.keys():
        artifact.l1_at = min(datetime.fromisoformat(when) for when in artifact.coverage.values())
        changed.append("l1_at")
    if climb.restore_seconds is not None:
        artifact.restore_seconds = climb.restore_seconds
        changed.append("restore_seconds")
    if artifact.damaged_at is not None and _refutes(climb, artifact, parts):
        artifact.damaged_at, artifact.damage = None, ""
        changed += ["damaged_at", "damage"]
    return changed


def _refutes(climb: Climb, artifact: Artifact, parts: set[str]) -> bool:
    """Whether this climb looked at everything that the damage was found in, and found it whole."""
    found_at = int(artifact.damage[1]) if artifact.damage[:1] == "L" and artifact.damage[1:2].isdigit() else 3
    if found_at <= 1:
        return climb.hashed >= parts
    return climb.reached is not None and climb.reached >= found_at
