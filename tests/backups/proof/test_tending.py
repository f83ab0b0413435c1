"""The ticks around proofs: what is due is asked for once, what was lost comes back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backups.engine import sending
from backups.models import BackupRecord, ProofEvent, ProofRun
from backups.proof import request_due_proofs, request_proof, run_proof, tend_proofs
from backups.proof.scratch import scratch_root
from controlplane.kernel import clock, leases
from tests.backups import factories

from .seeing import artifact, proven

DAY = timedelta(days=1)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """What would go to the broker."""
    found: list[tuple[str, int, str]] = []

    def send(task: str, pk: int, *, queue: str = "work") -> bool:
        found.append((task, pk, queue))
        return True

    monkeypatch.setattr(sending, "send", send)
    return found


def asked(at: object = None) -> list[tuple[int, int]]:
    return [(proof.record_id, proof.level) for proof in request_due_proofs(at)]  # type: ignore[arg-type]


@pytest.mark.usefixtures("identity")
def test_a_new_set_is_read_once_and_then_checked_daily(record: BackupRecord, sent: list[object]) -> None:
    assert asked() == [(record.pk, 2)]
    assert asked() == []  # it waits
    proof = ProofRun.objects.get()
    assert sent == [("backups.run_proof", proof.pk, "proof")]
    assert (proof.trigger, proof.state) == ("schedule", "queued")
    run_proof(proof.pk, owner="one")
    assert asked() == []
    tomorrow = clock.now() + DAY
    assert asked(tomorrow) == [(record.pk, 0)]  # hashed today
    ProofRun.objects.filter(state="queued").delete()
    assert asked(clock.now() + 29 * DAY) == [(record.pk, 2)]


def test_what_was_proven_of_single_artifacts_does_not_count_for_the_set(record: BackupRecord, identity: None) -> None:
    proven(record, 2, only_artifacts=["uploads"])
    assert asked() == [(record.pk, 2)]


def test_only_committed_sets_are_asked_for(record: BackupRecord) -> None:
    for state in ("expiring", "deleting", "deleted", "failed"):
        BackupRecord.objects.filter(pk=record.pk).update(state=state)
        assert asked() == []


def test_a_damaged_set_is_not_asked_again_by_itself(record: BackupRecord) -> None:
    row = artifact(record)
    row.damaged_at, row.damage = clock.now(), "L1: part-00001.age was changed"
    row.save()
    assert asked() == []


def test_an_old_set_is_hashed_where_a_part_was_not_seen_for_long(record: BackupRecord) -> None:
    newer = factories.run_now(record.plan)  # type: ignore[arg-type]
    BackupRecord.objects.filter(pk=record.pk).update(committed_at=clock.now() - 35 * DAY)
    assert sorted(asked()) == [(record.pk, 1), (newer.pk, 2)]


def test_without_a_broker_the_tick_sends_it(record: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "send", lambda *_, **__: False)
    proof = request_proof(record, level=0, trigger="manual")
    found: list[int] = []

    def send(task: str, pk: int, *, queue: str) -> bool:
        found.append(pk)
        return True

    monkeypatch.setattr(sending, "send", send)
    assert tend_proofs().sent == 1
    assert tend_proofs().sent == 0
    assert tend_proofs(clock.now() + sending.RESEND).sent == 1
    assert found == [proof.pk, proof.pk]


def lost(record: BackupRecord, *, attempt: int = 1, **changes: object) -> ProofRun:
    """A running proof whose worker is gone."""
    proof = request_proof(record, level=0, trigger="manual")
    lease = leases.acquire(ProofRun, proof.pk, owner="gone", ttl_seconds=60, now=clock.now())
    assert lease is not None
    ProofRun.objects.filter(pk=proof.pk).update(state="running", attempt=attempt, **changes)
    proof.refresh_from_db()
    return proof


def test_a_lease_that_holds_is_left_alone(record: BackupRecord) -> None:
    proof = lost(record)
    assert tend_proofs().again == 0
    proof.refresh_from_db()
    assert (proof.state, proof.lease_owner) == ("running", "gone")


def test_an_expired_lease_is_another_attempt_later(record: BackupRecord) -> None:
    proof = lost(record, attempt=2)
    now = clock.now() + timedelta(seconds=61)
    tended = tend_proofs(now)
    assert (tended.again, tended.given_up) == (1, 0)
    proof.refresh_from_db()
    assert (proof.state, proof.due_at, proof.lease_owner) == ("queued", now + timedelta(minutes=2), "")
    assert run_proof(proof.pk, owner="early", now=now) is None
    event = ProofEvent.objects.filter(subject=proof).latest()
    assert (event.from_state, event.to_state, event.reason) == (
        "running",
        "queued",
        "The worker of attempt 2 was lost.",
    )


def test_a_lost_proof_that_was_cancelled_is_over(record: BackupRecord) -> None:
    proof = lost(record, cancel_requested_at=clock.now())
    tend_proofs(clock.now() + timedelta(seconds=61))
    proof.refresh_from_db()
    assert proof.state == "cancelled"


def test_scratch_of_a_proof_that_is_going_on_is_left_alone(record: BackupRecord) -> None:
    proof = lost(record)
    root = scratch_root()
    for name in (f"{proof.pk}-abc", f"{proof.pk + 1}-abc"):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep").chmod(0o500)
    assert tend_proofs().swept == 1
    assert [path.name for path in root.iterdir()] == [f"{proof.pk}-abc"]
    tend_proofs(clock.now() + timedelta(seconds=61))
    assert list(root.iterdir()) == []


def test_proofs_of_long_ago_are_forgotten_and_their_events_with_them(record: BackupRecord) -> None:
    old = proven(record, 0)
    ProofRun.objects.filter(pk=old.pk).update(finished_at=clock.now() - 91 * DAY)
    young = proven(record, 1)
    request_due_proofs()
    kept = ProofRun.objects.filter(state="passed")
    assert list(kept) == [young]
    assert not ProofEvent.objects.filter(subject_id=old.pk).exists()
    assert artifact(record).l0_at is not None
