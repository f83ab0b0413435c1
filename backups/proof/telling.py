"""What people are told when a proof finds damage: one message per proof."""

from __future__ import annotations

from backups.engine.notices import link_to
from backups.models import ProofRun
from controlplane.notifications.api import notify


def tell_failed(proof: ProofRun) -> None:
    """A restore point does not hold what it should: the reader decides whether an earlier one is needed."""
    record = proof.record
    lines = [f"{one['artifact']}: {one['detail']}" for one in proof.findings if one.get("status") == "fail"]
    notify(
        "proof_failed",
        key=f"proof_failed:{record.name}:{proof.pk}",
        title=f"{record.name} does not prove to restore (L{proof.level})",
        body="\n".join(
            [proof.error, *lines[:20], "Make a new backup now, and use an earlier restore point until then."]
        ),
        link=link_to(record),
    )
