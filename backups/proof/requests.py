"""Asking for proofs: one row each, one message each; the row is what counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max

from backups.engine import sending
from backups.engine.events import note
from backups.machines import PROOF
from backups.models import BackupPlan, BackupRecord, ProofEvent, ProofRun
from controlplane.kernel import clock, transitions
from controlplane.kernel.errors import Refused

from .due import Due, PartFacts, SetFacts, due_proofs

RUN_TASK, QUEUE = "backups.run_proof", "proof"
#: Proofs that ended longer ago than this are forgotten; artifacts remember the last of each level.
KEEP = timedelta(days=90)
#: Of a set whose plan was deleted.
_FULL_DAYS = 30
_KNOWN = ("passed", "failed")
_SENT = "sent_at"


def request_proof(
    record: BackupRecord,
    *,
    level: int,
    trigger: str,
    requested_by: str = "",
    only_artifacts: Sequence[str] = (),
    now: datetime | None = None,
) -> ProofRun:
    """A queued proof of the record up to ``level``; the one that waits already where it is the same.

    Refused where the set does not exist (any more), or has no artifact of a name in ``only_artifacts``.
    """
    now = now or clock.now()
    if record.state not in ("committed", "expiring"):
        raise Refused(f"{record.name} is {record.state}: there is nothing to prove.", remedy="Choose a committed one.")
    known = set(record.artifacts.values_list("name", flat=True))
    if unknown := sorted(set(only_artifacts) - known):
        raise Refused(f"{record.name} has no {', '.join(unknown)}.", remedy=f"It has: {', '.join(sorted(known))}.")
    only = sorted(set(only_artifacts))
    with transaction.atomic():
        waiting = ProofRun.objects.filter(record=record, level=level, state="queued", only_artifacts=only).first()
        if waiting is not None:
            return waiting
        proof = ProofRun.objects.create(
            record=record, level=level, trigger=trigger, requested_by=requested_by, only_artifacts=only,
            created_at=now, due_at=now,
        )  # fmt: skip
        ProofEvent(subject=proof, at=now, to_state="queued", actor=requested_by, reason=trigger).save()
        if requested_by:
            note(record, f"{ProofRun.Level(level).label} asked for", actor=requested_by, now=now)
        send(proof, now=now)
    return proof


def request_cancel(proof: ProofRun, *, actor: str, now: datetime | None = None) -> bool:
    """Stop it: at once while it waits, within moments while it runs. False where it is over."""
    now = now or clock.now()
    if proof.state == "queued" and transitions.advance(
        proof, "cancelled", machine=PROOF, event=ProofEvent, actor=actor, now=now, reason="cancelled",
        changes={"finished_at": now, "cancel_requested_at": now},
    ):  # fmt: skip
        return True
    if proof.state != "running":
        return False
    proof.cancel_requested_at = now
    proof.save(update_fields=["cancel_requested_at"])
    return True


def send(proof: ProofRun, *, now: datetime | None = None) -> None:
    """Once the transaction is committed. Without a broker the row waits for the next tick."""
    pk, at = proof.pk, now or clock.now()

    def put() -> None:
        if sending.send(RUN_TASK, pk, queue=QUEUE):
            ProofRun.objects.filter(pk=pk, state="queued").update(progress={_SENT: at.isoformat()})

    transaction.on_commit(put)


def wants_sending(proof: ProofRun, now: datetime) -> bool:
    """Whether a due row that waits has no message that could still be taken."""
    sent = (proof.progress or {}).get(_SENT)
    if not isinstance(sent, str):
        return True
    at = datetime.fromisoformat(sent)
    return at < proof.due_at or now - at >= sending.RESEND


def request_due_proofs(now: datetime | None = None) -> list[ProofRun]:
    """Ask for every proof that is due, of every committed set; forget those that ended long ago."""
    now = now or clock.now()
    days = dict(BackupPlan.objects.values_list("name", "verify_full_days"))
    by_plan: dict[str, list[BackupRecord]] = {}
    records = BackupRecord.objects.filter(state="committed", committed_at__isnull=False)
    for record in records.prefetch_related("artifacts").select_related("target"):
        by_plan.setdefault(record.plan_name, []).append(record)
    asked = []
    for plan, of_plan in by_plan.items():
        by_key = {record.pk: record for record in of_plan}
        due = due_proofs(facts(of_plan), now, verify_full_days=days.get(plan, _FULL_DAYS))
        asked += [_ask(by_key[one.key], one, now) for one in due]
    ProofRun.objects.filter(state__in=PROOF.terminal_states, finished_at__lt=now - KEEP).delete()
    return asked


def _ask(record: BackupRecord, due: Due, now: datetime) -> ProofRun:
    return request_proof(record, level=due.level, trigger=ProofRun.Trigger.SCHEDULE, now=now)


def facts(records: Iterable[BackupRecord]) -> list[SetFacts]:
    """What the pure judge looks at, in a few queries for all of them."""
    records = list(records)
    proofs = ProofRun.objects.filter(record__in=records).order_by()
    whole = proofs.filter(only_artifacts=[])

    def last(level: int, states: Sequence[str] | None) -> dict[int, datetime]:
        rows = whole.filter(level__gte=level, finished_at__isnull=False)
        rows = rows if states is None else rows.filter(state__in=states)
        return dict(rows.values_list("record").annotate(Max("finished_at")))

    checked, tried, read, read_tried = last(0, _KNOWN), last(0, None), last(2, _KNOWN), last(2, None)
    going = set(proofs.filter(state__in=("queued", "running")).values_list("record", flat=True))
    return [
        SetFacts(
            key=record.pk,
            committed_at=record.committed_at or record.created_at,
            parts=tuple(parts_of(record)),
            checked_at=checked.get(record.pk),
            tried_at=tried.get(record.pk),
            read_at=read.get(record.pk),
            read_tried_at=read_tried.get(record.pk),
            going=record.pk in going,
            partial=bool(record.only_sources),
            damaged=any(artifact.damaged_at is not None for artifact in record.artifacts.all()),
        )
        for record in records
    ]


def parts_of(record: BackupRecord) -> Iterable[PartFacts]:
    """Every part of the record. One that no proof re-hashed was read back, hash and all, before the commit."""
    since = record.committed_at or record.created_at
    for artifact in record.artifacts.all():
        seen = artifact.coverage or {}
        for part in artifact.parts:
            at = datetime.fromisoformat(seen[part["name"]]) if part["name"] in seen else since
            yield PartFacts(artifact.name, part["name"], int(part["size"]), at)
