"""Proofs whose worker was lost, or whose message was: nobody has to unlock anything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction

from backups.machines import PROOF
from backups.models import ProofEvent, ProofRun
from controlplane.kernel import clock, leases, transitions
from controlplane.kernel.leases import RELEASED, Lease

from .requests import send, wants_sending
from .scratch import leftovers, remove

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 3
BACKOFF = timedelta(minutes=1)
_OWNER, _TTL_SECONDS = "tend", 30.0


@dataclass(frozen=True)
class Tended:
    """How many were queued again, given up, sent (again), and how many scratch directories were removed."""

    again: int = 0
    given_up: int = 0
    sent: int = 0
    swept: int = 0


def tend_proofs(now: datetime | None = None) -> Tended:
    """Every minute: expired leases to another attempt (at most three, then ``unknown``), lost messages again."""
    now = now or clock.now()
    again = given_up = sent = 0
    for proof in leases.due(ProofRun.objects.filter(state="running"), now):
        lease = leases.acquire(
            ProofRun.objects.filter(state="running"), proof.pk, owner=_OWNER, ttl_seconds=_TTL_SECONDS, now=now
        )
        if lease is None:
            continue
        proof.refresh_from_db()
        if _take_over(proof, lease, now) == "queued":
            again += 1
        else:
            given_up += 1
    for proof in leases.due(ProofRun.objects.filter(state="queued", due_at__lte=now), now):
        if wants_sending(proof, now):
            send(proof, now=now)
            sent += 1
    # Looked at before the rows are: a proof is running before it makes its directory, so a new one is never swept.
    there = leftovers()
    going = {str(pk) for pk in ProofRun.objects.filter(state="running").values_list("pk", flat=True)}
    swept = [path for path in there if path.name.partition("-")[0] not in going]
    for path in swept:
        remove(path)
    return Tended(again, given_up, sent, len(swept))


def _take_over(proof: ProofRun, lease: Lease, now: datetime) -> str:
    """The state that it has now. What the lost worker noted of the artifacts holds; the proof itself begins anew."""
    why = f"The worker of attempt {proof.attempt} was lost."
    changes: dict[str, Any]
    if proof.cancel_requested_at is not None:
        to, changes = "cancelled", {"finished_at": now}
    elif proof.attempt < MOST_ATTEMPTS:
        to, changes = "queued", {"due_at": now + BACKOFF * proof.attempt}
    else:
        to, changes = "unknown", {"finished_at": now, "error": f"{why} It was tried {proof.attempt} times."}
    with transaction.atomic():
        transitions.advance(
            proof, to, machine=PROOF, event=ProofEvent, actor=_OWNER, now=now, lease=lease, reason=why,
            changes={"progress": {}, **changes, **RELEASED},
        )  # fmt: skip
    log.warning("proof_worker_lost", proof=str(proof), attempt=proof.attempt, state=proof.state)
    return proof.state
