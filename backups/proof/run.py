"""One climb of the ladder by one worker: under a lease, noted artifact by artifact, ended by one move of the row.

passed        everything that was asked holds
failed        something is not what the signed manifest says: the artifact is damaged, somebody is told
unknown       the store or a scratch server could not be had: nothing was learned, nothing is damaged
not_possible  this process cannot decrypt
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction

from backups import keys
from backups.engine.fence import LEASE_SECONDS, Fence
from backups.errors import Cancelled, Damaged, NoIdentity, ObjectMissing, StorageRefused, StorageUnavailable
from backups.keys import Identity
from backups.machines import PROOF
from backups.manifest import Manifest, ManifestArtifact, load_document, manifest_sha256, open_signed
from backups.models import Artifact, BackupPlan, ProofEvent, ProofRun
from backups.storage import open_target
from backups.storage.base import Storage
from controlplane.kernel import clock, leases, transitions
from controlplane.kernel.errors import LeaseLost, NotAuthentic, Unavailable, ZantaraError
from controlplane.kernel.leases import RELEASED, Lease
from controlplane.kernel.logs import redact_text

from . import noting
from .due import sample
from .ladder import Climb, Ladder
from .meter import Meter
from .requests import parts_of
from .scratch import scratch_place
from .steps import step_reached
from .telling import tell_failed
from .tending import tend_proofs

log = structlog.get_logger(__name__)

MOST_ERROR = 4000
_FULL_DAYS = 30


@dataclass
class Outcome:
    state: str
    error: str = ""


@dataclass
class _Work:
    """What the parts of one climb share."""

    proof: ProofRun
    lease: Lease
    fence: Fence
    meter: Meter
    findings: list[dict[str, Any]] = field(default_factory=list)


def run_proof(pk: int, *, owner: str, now: datetime | None = None) -> ProofRun | None:
    """Carry out a queued proof, or None: it is not due, not queued, or another worker has it.

    Never raises for what goes wrong with a proof: the returned row's state and ``error`` say it.
    """
    now = now or clock.now()
    waiting = ProofRun.objects.filter(state="queued", due_at__lte=now)
    lease = leases.acquire(waiting, pk, owner=owner, ttl_seconds=LEASE_SECONDS, now=now)
    if lease is None:
        return None
    step_reached("proof_leased")
    proof = ProofRun.objects.select_related("record__target", "record__plan").get(pk=pk)
    moved = transitions.advance(
        proof, "running", machine=PROOF, event=ProofEvent, actor=owner, now=now, lease=lease,
        reason=f"attempt {proof.attempt + 1}",
        changes={"attempt": proof.attempt + 1, "started_at": now, "error": "", "findings": [], "read_bytes": 0,
                 "progress": {}},
    )  # fmt: skip
    if not moved:  # cancelled in between
        lease.release()
        return None
    step_reached("proof_running")
    try:
        with Fence(lease) as fence:
            work = _Work(proof, lease, fence, Meter(proof, fence))
            _end(work, _outcome(work))
    except LeaseLost as lost:
        log.warning("proof_given_up", proof=str(proof), why=str(lost))
    proof.refresh_from_db()
    return proof


def _outcome(work: _Work) -> Outcome:
    """What is to be said of it. Only LeaseLost comes out. What was found before it ended early is not kept quiet."""
    outcome = _tried(work)
    return outcome if outcome.state in ("passed", "failed") or not _failing(work) else _judged(work, [outcome.error])


def _tried(work: _Work) -> Outcome:
    try:
        return _climb(work)
    except LeaseLost:
        raise
    except Cancelled as cancelled:
        return Outcome("cancelled", str(cancelled))
    except NoIdentity as none:
        return Outcome("not_possible", str(none))
    except (Unavailable, StorageRefused) as away:
        return _judged(work, [str(away)])
    except SoftTimeLimitExceeded:
        return _judged(work, ["It took longer than a worker may take for one proof; prove single artifacts."])
    except Exception as error:  # a defect of ours or of a kind: the row must not stay running
        if not isinstance(error, ZantaraError):
            log.exception("proof_broke", proof=str(work.proof))
        return Outcome("unknown", str(error) if isinstance(error, ZantaraError) else f"{type(error).__name__}: {error}")


def _climb(work: _Work) -> Outcome:
    proof = work.proof
    record = proof.record
    if record.state not in ("committed", "expiring"):
        return Outcome("cancelled", f"{record.name} is {record.state} now.")
    identity: Identity | None = keys.drill_identity() if proof.level >= ProofRun.Level.L2 else None
    storage = open_target(record.target)
    try:
        manifest = _manifest(storage, work)
    except (Damaged, ObjectMissing) as damage:
        return _whole_set_damaged(work, str(damage))
    step_reached("proof_set_opened")
    ladder = Ladder(storage, record.prefix, identity, lambda: scratch_place(proof.pk), work.meter.read)
    wanted = [one for one in manifest.artifacts if not proof.only_artifacts or one.name in proof.only_artifacts]
    parts = _sample(work)
    troubles: list[str] = []
    for position, artifact in enumerate(wanted, start=1):
        work.meter.begin(artifact.name, position, len(wanted), _will_read(artifact, proof.level, parts))
        climb = _one(work, ladder, artifact, _of(parts, artifact), troubles)
        if climb is not None:
            step_reached("proof_artifact_climbed")
            noting.note(climb, artifact.name, work.proof, work.lease, work.findings, at=clock.now())
            step_reached("proof_artifact_noted")
    return _judged(work, troubles)


def _judged(work: _Work, troubles: list[str]) -> Outcome:
    """Damage that was found counts, whatever else could not be learned."""
    if failed := _failing(work):
        names = ", ".join(failed)
        return Outcome("failed", " ".join([f"Not as the manifest says: {names}.", *troubles]))
    return Outcome("unknown", " ".join(troubles)) if troubles else Outcome("passed")


def _failing(work: _Work) -> list[str]:
    """The artifacts that were found to be damaged."""
    return list(dict.fromkeys(one["artifact"] for one in work.findings if one["status"] == "fail"))


def _one(
    work: _Work, ladder: Ladder, artifact: ManifestArtifact, parts: Collection[str] | None, troubles: list[str]
) -> Climb | None:
    """The climb of one artifact; None where a server that its kind needs could not be had: the others go on."""
    try:
        return ladder.climb(artifact, work.proof.level, parts=parts)
    except (LeaseLost, Cancelled, NoIdentity, StorageRefused, StorageUnavailable, SoftTimeLimitExceeded):
        raise
    except Unavailable as away:
        troubles.append(f"{artifact.name}: {away}")
    except Exception as error:  # a kind may break in any way; that says nothing of what is stored
        if not isinstance(error, ZantaraError):
            log.warning("climb_broke", artifact=artifact.name, proof=str(work.proof), exc_info=True)
        troubles.append(f"{artifact.name}: {error if isinstance(error, ZantaraError) else repr(error)}")
    work.findings.append(
        {"artifact": artifact.name, "level": work.proof.level, "status": "unknown", "detail": redact_text(troubles[-1])}
    )
    return None


def _manifest(storage: Storage, work: _Work) -> Manifest:
    """The set's manifest, which must be the very one that this record was committed with."""
    record = work.proof.record
    document = load_document(storage, record.prefix)
    if record.manifest_sha256 and manifest_sha256(document) != record.manifest_sha256:
        raise Damaged(f"The manifest of {record.name} is not the one that was committed.")
    try:
        return open_signed(document, keys.trusted_keys())
    except NotAuthentic:
        if not record.manifest_sha256:
            raise
        # The very bytes that we committed: it is the key that is not known here, not the set that was changed.
        raise Unavailable(
            f"The manifest of {record.name} is signed by a key that is not trusted here any more.",
            remedy="Name its public key in ZANTARA_MANIFEST_TRUSTED_KEY_FILES.",
        ) from None


def _whole_set_damaged(work: _Work, why: str) -> Outcome:
    """Manifest or COMMIT are gone or wrong: no artifact can be restored from it."""
    names = work.proof.only_artifacts or list(
        Artifact.objects.filter(record=work.proof.record).values_list("name", flat=True)
    )
    for name in names:
        climb = Climb(work.proof.level)
        climb.note(0, "fail", why)
        noting.note(climb, name, work.proof, work.lease, work.findings, at=clock.now())
    return Outcome("failed", why)


def _sample(work: _Work) -> dict[str, set[str]] | None:
    """Artifact -> parts to re-hash. None: all of them, as whoever asks by hand expects."""
    proof = work.proof
    if proof.level != ProofRun.Level.L1 or proof.trigger != ProofRun.Trigger.SCHEDULE:
        return None
    plan: BackupPlan | None = proof.record.plan
    days = plan.verify_full_days if plan is not None else _FULL_DAYS
    chosen: dict[str, set[str]] = {}
    for part in sample(list(parts_of(proof.record)), clock.now(), verify_full_days=days):
        chosen.setdefault(part.artifact, set()).add(part.name)
    return chosen


def _of(parts: dict[str, set[str]] | None, artifact: ManifestArtifact) -> Collection[str] | None:
    return None if parts is None else parts.get(artifact.name, set())


def _will_read(artifact: ManifestArtifact, level: int, parts: dict[str, set[str]] | None) -> int:
    """For the progress bar: stored bytes on L1, plain ones above."""
    if level >= 2:
        return artifact.plain_bytes
    chosen = _of(parts, artifact)
    return 0 if level == 0 else sum(p.size for p in artifact.parts if chosen is None or p.name in chosen)


def _end(work: _Work, outcome: Outcome) -> None:
    """The last move; whoever must know is told in the same transaction."""
    proof, error = work.proof, redact_text(outcome.error)[:MOST_ERROR]
    step_reached("proof_ended")
    with transaction.atomic():
        moved = transitions.advance(
            proof, outcome.state, machine=PROOF, event=ProofEvent, actor=work.lease.owner, now=clock.now(),
            lease=work.lease, reason=error,
            changes={"finished_at": clock.now(), "error": error, "findings": work.findings, "progress": {},
                     "read_bytes": work.meter.total_bytes, **RELEASED},
        )  # fmt: skip
        if moved and outcome.state == "failed":
            tell_failed(proof)
    log.info("proof_ended", proof=str(proof), record=proof.record.name, state=outcome.state)


__all__ = ["run_proof", "tend_proofs"]
