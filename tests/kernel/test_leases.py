from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from controlplane.kernel.errors import LeaseLost, Refused
from controlplane.kernel.leases import Lease, acquire, due
from tests.kernel.racing import race
from tests.kernelapp.models import Job

NOON = datetime(2031, 5, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def taken(job: Job, owner: str, at: datetime = NOON, ttl_seconds: float = 30) -> Lease:
    lease = acquire(Job, job.pk, owner=owner, ttl_seconds=ttl_seconds, now=at)
    assert lease is not None
    return lease


def test_a_free_row_is_leased_and_says_so(db: None) -> None:
    job = Job.objects.create()
    lease = taken(job, "w1")
    job.refresh_from_db()
    assert (job.lease_owner, job.lease_token, job.lease_expires_at, job.lease_heartbeat_at) == (
        "w1", 1, after(30), NOON,
    )  # fmt: skip
    assert (lease.token, lease.expires_at, lease.is_held()) == (1, after(30), True)


def test_a_held_row_is_nobody_elses_until_the_very_moment_it_expires(db: None) -> None:
    job = Job.objects.create()
    taken(job, "w1")
    assert acquire(Job, job.pk, owner="w2", ttl_seconds=30, now=after(29.999)) is None
    assert acquire(Job, job.pk, owner="w1", ttl_seconds=30, now=after(1)) is None
    assert taken(job, "w2", after(30)).token == 2


def test_a_zombie_whose_row_was_taken_over_cannot_write_renew_or_release(db: None) -> None:
    job = Job.objects.create()
    zombie, heir = taken(job, "zombie"), taken(job, "heir", after(31))
    for attempt in (lambda: zombie.guarded_update(worker="zombie"), lambda: zombie.renew(after(32)), zombie.release):
        with pytest.raises(LeaseLost):
            attempt()
    job.refresh_from_db()
    assert (job.worker, job.lease_owner, job.lease_expires_at) == ("", "heir", after(61))
    assert (zombie.is_held(), heir.is_held(), zombie.expires_at) == (False, True, after(30))
    heir.guarded_update(worker="heir", attempts=3)
    job.refresh_from_db()
    assert (job.worker, job.attempts) == ("heir", 3)


def test_a_late_owner_whom_nobody_replaced_still_writes_and_renews(db: None) -> None:
    job = Job.objects.create()
    lease = taken(job, "late")
    lease.guarded_update(worker="late")
    lease.renew(after(100))
    job.refresh_from_db()
    assert (job.worker, job.lease_expires_at, job.lease_heartbeat_at) == ("late", after(130), after(100))
    assert acquire(Job, job.pk, owner="w2", ttl_seconds=30, now=after(120)) is None


def test_a_forged_token_renews_nothing(db: None) -> None:
    job = Job.objects.create()
    taken(job, "w1")
    forged = Lease(Job, job.pk, "w1", 99, 30, after(30))
    with pytest.raises(LeaseLost):
        forged.renew(after(5))
    job.refresh_from_db()
    assert job.lease_expires_at == after(30)


def test_after_its_release_a_lease_writes_nothing_and_the_token_never_falls(db: None) -> None:
    job = Job.objects.create()
    first = taken(job, "w1")
    first.release()
    with pytest.raises(LeaseLost):
        first.guarded_update(worker="w1")
    with pytest.raises(LeaseLost):
        first.release()
    job.refresh_from_db()
    assert (job.worker, job.lease_owner, job.lease_expires_at, job.lease_token) == ("", "", None, 1)
    assert taken(job, "w2").token == 2


def test_the_lease_itself_is_not_written_by_a_guarded_update(db: None) -> None:
    lease = taken(Job.objects.create(), "w1")
    with pytest.raises(Refused, match="lease_token"):
        lease.guarded_update(lease_token=7)
    with pytest.raises(Refused, match="nothing at all"):
        lease.guarded_update()


@pytest.mark.parametrize(("owner", "ttl_seconds"), [("", 30), ("w", 0), ("w", -1)])
def test_a_lease_needs_an_owner_and_a_length(db: None, owner: str, ttl_seconds: float) -> None:
    job = Job.objects.create()
    with pytest.raises(Refused):
        acquire(Job, job.pk, owner=owner, ttl_seconds=ttl_seconds, now=NOON)
    job.refresh_from_db()
    assert job.lease_token == 0


def test_due_rows_are_the_free_and_the_expired_and_acquiring_respects_the_queryset(db: None) -> None:
    free, held, expired = (Job.objects.create(worker=name) for name in ("free", "held", "expired"))
    taken(held, "w", NOON, 60)
    taken(expired, "w", NOON, 5)
    assert [job.worker for job in due(Job.objects.order_by("pk"), after(10))] == ["free", "expired"]
    done = Job.objects.filter(state="done").order_by("worker")
    assert acquire(done, free.pk, owner="w", ttl_seconds=5, now=NOON) is None
    assert acquire(Job.objects.filter(state="new").order_by("pk"), free.pk, owner="w", ttl_seconds=5, now=NOON)
    assert acquire(Job, 10**9, owner="w", ttl_seconds=5, now=NOON) is None


def test_of_many_threads_exactly_one_gets_each_lease(transactional_db: None) -> None:
    threads, keys = 8, [Job.objects.create().pk for _ in range(10)]
    barrier, won, lock = threading.Barrier(threads), Counter[int](), threading.Lock()

    def work(name: str) -> None:
        try:
            barrier.wait(20)
            for pk in keys:
                lease = acquire(Job, pk, owner=name, ttl_seconds=60, now=NOON)
                if lease is not None:
                    with lock:
                        won[pk] += 1
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert won == dict.fromkeys(keys, 1)
    assert set(Job.objects.values_list("lease_token", flat=True)) == {1}


def test_of_several_processes_exactly_one_gets_each_lease(transactional_db: None) -> None:
    keys = [Job.objects.create().pk for _ in range(25)]
    answers = race("lease", keys, racers=3)
    assert Counter(pk for answer in answers for pk in answer["won"]) == dict.fromkeys(keys, 1)
    assert set(Job.objects.values_list("lease_token", flat=True)) == {1}


class LeaseLife(RuleBasedStateMachine):
    """Three workers whose clocks only move on; the model knows who was the last to acquire."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.tokens = NOON, [0]
        self.leases: list[Lease] = []
        self.current: Lease | None = None
        self.written = ""

    @initialize()
    def a_row(self) -> None:
        self.pk = Job.objects.create().pk

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(worker=st.sampled_from("abc"), ttl_seconds=st.integers(1, 60))
    def somebody_wants_it(self, worker: str, ttl_seconds: int) -> None:
        lease = acquire(Job, self.pk, owner=worker, ttl_seconds=ttl_seconds, now=self.now)
        free = self.current is None or self.current.expires_at <= self.now
        assert (lease is not None) is free
        if lease is not None:
            assert lease.token > self.tokens[-1]
            self.tokens.append(lease.token)
            self.leases.append(lease)
            self.current = lease

    @rule(data=st.data())
    def somebody_renews(self, data: st.DataObject) -> None:
        self._act(data, lambda lease: lease.renew(self.now))

    @rule(data=st.data(), text=st.text("xyz", min_size=1, max_size=5))
    def somebody_writes(self, data: st.DataObject, text: str) -> None:
        if self._act(data, lambda lease: lease.guarded_update(worker=text)):
            self.written = text

    @rule(data=st.data())
    def somebody_releases(self, data: st.DataObject) -> None:
        if self._act(data, lambda lease: lease.release()):
            self.current = None

    def _act(self, data: st.DataObject, act: object) -> bool:
        if not self.leases:
            return False
        lease = data.draw(st.sampled_from(self.leases))
        if lease is self.current:
            act(lease)  # type: ignore[operator]
            return True
        with pytest.raises(LeaseLost):
            act(lease)  # type: ignore[operator]
        return False

    @invariant()
    def the_row_says_what_the_model_says(self) -> None:
        if not hasattr(self, "pk"):
            return
        job = Job.objects.get(pk=self.pk)
        assert (job.worker, job.lease_token) == (self.written, self.tokens[-1])
        assert job.lease_expires_at == (self.current.expires_at if self.current else None)


def test_no_order_of_events_lets_two_workers_write(db: None) -> None:
    quick = settings(
        max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(LeaseLife, settings=quick)
