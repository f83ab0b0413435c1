"""Workers beside each other: two on one run, one that was stopped and wakes after its lease, one that lost its row."""

from __future__ import annotations

import json
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest

from backups.engine import fence
from backups.engine.fence import Fence, FencedStorage
from backups.engine.recover import tend_backups
from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.models import BackupEvent, BackupPlan, BackupRecord
from backups.storage import open_target
from controlplane.kernel import clock, leases
from controlplane.kernel.errors import LeaseLost
from tests.backups import factories
from tests.backups.engine import seeing
from tests.stack import wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]

CONTENTS = {"notes.txt": b"kept\n" * 1000}


@pytest.fixture
def plan(tmp_path: Path) -> BackupPlan:
    return factories.files_plan(tmp_path, contents=CONTENTS)


def requested(plan: BackupPlan) -> BackupRecord:
    record = request_backup(plan, trigger="manual")
    assert record is not None
    return record


def test_of_two_workers_on_one_run_one_runs_it(plan: BackupPlan) -> None:
    record = requested(plan)
    with seeing.worker("run", record.pk, "--wait") as one, seeing.worker("run", record.pk, "--wait") as other:
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(json.loads(process.communicate(timeout=60)[0])["result"] for process in (one, other))
    assert said == ["committed", "not mine"]
    record.refresh_from_db()
    assert record.attempt == 1
    assert set(seeing.prefixes(record.target)) == {record.prefix}
    assert BackupEvent.objects.filter(subject=record, to_state="running").count() == 1


def test_two_requests_at_once_for_one_time_make_one_run(plan: BackupPlan) -> None:
    from tests.backups.engine.worker import ACTIONS

    assert "request" in ACTIONS
    with seeing.worker("request", plan.pk, "--wait") as one, seeing.worker("request", plan.pk, "--wait") as other:
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [json.loads(process.communicate(timeout=60)[0])["result"] for process in (one, other)]
    assert sorted(bool(name) for name in said) == [False, True]
    assert BackupRecord.objects.filter(plan=plan).count() == 1


@pytest.mark.parametrize("believes", ["--pause", "--pause-believing"])
@pytest.mark.parametrize("step", ["running", "streaming", "source_stored", "manifest_signed", "commit_fenced"])
def test_a_worker_that_wakes_after_its_lease_leaves_nothing_in_the_store_or_the_row(
    step: str, believes: str, tmp_path: Path, plan: BackupPlan
) -> None:
    """``--pause-believing``: it still trusts its last renewal, so that only the row's token can stop it."""
    earlier = factories.committed_set(tmp_path, plan=plan)
    record = requested(plan)
    with seeing.worker("run", record.pk, believes, kill_at=step, proof=tmp_path / "stopped") as process:
        seeing.wait_until_stopped(process.pid)
        assert (tmp_path / "stopped").read_text() == step
        record.refresh_from_db()
        lost = record.prefix
        assert (record.state, lost != "") == ("running", True)

        assert tend_backups(clock.now() + timedelta(seconds=61)).repeated == 1
        run_backup(record.pk, owner="the other", now=clock.now() + timedelta(minutes=10))
        record.refresh_from_db()
        before = (record.state, record.attempt, record.prefix, record.manifest_sha256, record.lease_token)
        assert before[:2] == ("committed", 2)

        time.sleep(0.3)  # longer than the one believes its last renewal, shorter than the other
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["result"] == "committed", "it reports what the other did"
    assert "run_given_up" in err
    record.refresh_from_db()
    assert (record.state, record.attempt, record.prefix, record.manifest_sha256, record.lease_token) == before
    assert set(seeing.prefixes(record.target)) == {earlier.prefix, record.prefix}, (
        f"something is left at {lost}: {seeing.prefixes(record.target)}\n{err}"
    )
    assert list(open_target(record.target).uploads("sets/")) == []
    assert seeing.restored_files(record) == CONTENTS
    assert seeing.restored_files(earlier) == CONTENTS


def test_a_worker_that_wakes_after_its_set_was_found_whole_leaves_it_alone(tmp_path: Path, plan: BackupPlan) -> None:
    record = requested(plan)
    with seeing.worker("run", record.pk, "--pause", kill_at="commit_stored", proof=tmp_path / "stopped") as process:
        seeing.wait_until_stopped(process.pid)
        assert tend_backups(clock.now() + timedelta(seconds=61)).committed == 1
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    record.refresh_from_db()
    assert (record.state, record.attempt) == ("committed", 1)
    assert seeing.restored_files(record) == CONTENTS
    assert BackupEvent.objects.filter(subject=record, to_state="committed").count() == 1


def test_a_worker_that_wakes_while_its_run_is_being_judged_leaves_the_objects_to_the_judge(
    tmp_path: Path, plan: BackupPlan
) -> None:
    record = requested(plan)
    with seeing.worker("run", record.pk, "--pause", kill_at="commit_fenced", proof=tmp_path / "stopped") as process:
        seeing.wait_until_stopped(process.pid)
        taken = leases.acquire(
            BackupRecord, record.pk, owner="recovery", ttl_seconds=60, now=clock.now() + timedelta(seconds=61)
        )
        assert taken is not None
        time.sleep(0.5)  # longer than this worker believes its last renewal
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert "run_given_up" in err
    record.refresh_from_db()
    assert (record.state, record.lease_owner) == ("running", "recovery")
    (objects,) = seeing.prefixes(record.target).values()
    assert "COMMIT" not in objects
    assert "manifest.json" in objects


# --- the fence itself ------------------------------------------------------------------------------------------


def leased(tmp_path: Path, plan: BackupPlan) -> leases.Lease:
    record = factories.record_of(plan, state="running")
    lease = leases.acquire(BackupRecord, record.pk, owner="one", ttl_seconds=60, now=clock.now())
    assert lease is not None
    return lease


def test_a_fence_believes_a_young_renewal_and_asks_after_an_old_one(
    tmp_path: Path, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leased(tmp_path, plan)
    with Fence(lease) as held:
        held.confirm()
        first = lease.expires_at
        monkeypatch.setattr(fence, "_BELIEVED_SECONDS", -1.0)
        monkeypatch.setattr(fence, "LEASE_SECONDS", 0.5)
        with pytest.raises(LeaseLost):  # nothing is young enough: it asked, and still could not be sure
            held.confirm()
        # Its thread may get to ask later than the caller gave up waiting.
        wait_for(lambda: lease.expires_at > first, 60, "a renewal")


def test_a_fence_that_lost_its_row_says_so_from_then_on_and_counts_it(tmp_path: Path, plan: BackupPlan) -> None:
    from backups.metrics import lease_lost

    lease = leased(tmp_path, plan)
    counted = lease_lost.child()._value.get()
    told: list[str] = []
    with Fence(lease, on_lost=lambda: told.append("lost")) as held:
        taken = leases.acquire(
            BackupRecord, lease.pk, owner="two", ttl_seconds=60, now=clock.now() + timedelta(seconds=61)
        )
        assert taken is not None
        held._renewed = (held._renewed[0] - 60, held._renewed[1])
        for _ in range(2):
            with pytest.raises(LeaseLost):
                held.confirm()
        storage = FencedStorage(open_target(plan.target), held.confirm)
        with pytest.raises(LeaseLost):
            storage.put("sets/x/2026/11/y/COMMIT", b"{}")
        with pytest.raises(LeaseLost), storage.open_writer("sets/x/2026/11/y/part-00001.age"):
            pass
        with pytest.raises(LeaseLost):
            held.renew()
    assert told == ["lost"]
    assert lease_lost.child()._value.get() == counted + 1
    assert seeing.prefixes(plan.target) == {}


def test_a_row_that_is_young_by_one_clock_alone_is_not_believed(tmp_path: Path, plan: BackupPlan) -> None:
    """A machine that slept: the monotonic clock stood still, the other did not."""
    lease = leased(tmp_path, plan)
    with Fence(lease) as held:
        leases.acquire(BackupRecord, lease.pk, owner="two", ttl_seconds=60, now=clock.now() + timedelta(seconds=61))
        held.confirm()
        held._renewed = (held._renewed[0], held._renewed[1] - timedelta(minutes=2))
        with pytest.raises(LeaseLost):
            held.confirm()
