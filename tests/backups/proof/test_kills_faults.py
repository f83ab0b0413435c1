"""A proof worker is killed at every step that there is, or sleeps through its lease; nobody unlocks anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backups.models import BackupRecord, ProofRun
from backups.proof import request_proof, run_proof, tend_proofs
from backups.proof.scratch import scratch_root
from backups.proof.steps import PROOF_STEPS
from controlplane.kernel import clock
from controlplane.notifications.models import Message
from tests.kernel.racing import database_url

from .seeing import artifact, flipped, folder, spoil

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("identity")]

#: A minute after the worker's last sign of life.
LATER = timedelta(seconds=61)


def worker(proof: ProofRun, *, kill_at: str, killed: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ, "ZANTARA_DATABASE_URL": database_url(), "PYTHONWARNINGS": "ignore",
        "ZANTARA_TEST_KILL_AT": kill_at, "ZANTARA_TEST_KILLED": str(killed),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "tests.backups.proof.worker", str(proof.pk)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def kill_at(proof: ProofRun, step: str, killed: Path) -> None:
    process = worker(proof, kill_at=step, killed=killed)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, out
    assert killed.read_text() == step.partition("@")[0]
    killed.unlink()


def carried_to_its_end(proof: ProofRun) -> ProofRun:
    """What the ticks and workers of the next minutes do."""
    now = clock.now()
    for _ in range(4):
        now += LATER
        tend_proofs(now)
        proof.refresh_from_db()
        if proof.state == "queued":
            run_proof(proof.pk, owner="next", now=max(now, proof.due_at))
            proof.refresh_from_db()
        if proof.state not in ("queued", "running"):
            break
    return proof


@pytest.mark.parametrize("step", PROOF_STEPS)
def test_a_worker_killed_at_any_step_is_tended(step: str, record: BackupRecord, tmp_path: Path) -> None:
    proof = request_proof(record, level=3, trigger="manual")
    kill_at(proof, step, tmp_path / "killed")
    proof.refresh_from_db()
    assert proof.state == ("queued" if step == "proof_leased" else "running")
    assert proof.lease_owner.startswith("worker-")

    ended = carried_to_its_end(proof)

    assert (ended.state, ended.lease_owner, ended.lease_expires_at) == ("passed", "", None)
    assert ended.attempt == (1 if step == "proof_leased" else 2)
    assert [artifact(record, name).proof_level for name in ("configuration", "uploads")] == [3, 3]
    assert list(scratch_root().iterdir()) == []


def test_a_worker_that_is_killed_in_the_second_artifact_has_noted_the_first(
    record: BackupRecord, tmp_path: Path
) -> None:
    proof = request_proof(record, level=3, trigger="manual")
    kill_at(proof, "proof_reading@2", tmp_path / "killed")
    assert [artifact(record, name).proof_level for name in ("configuration", "uploads")] == [3, None]
    assert len(list(scratch_root().iterdir())) == 1
    assert carried_to_its_end(proof).state == "passed"
    assert list(scratch_root().iterdir()) == []


def test_a_proof_that_kills_its_worker_thrice_is_given_up_and_damages_nothing(
    record: BackupRecord, tmp_path: Path
) -> None:
    proof = request_proof(record, level=3, trigger="manual")
    now = clock.now()
    for attempt in (1, 2, 3):
        kill_at(proof, "proof_reading", tmp_path / "killed")
        now = clock.now() + LATER
        tend_proofs(now)
        proof.refresh_from_db()
        assert (proof.attempt, proof.state) == (attempt, "unknown" if attempt == 3 else "queued")
        if attempt < 3:
            ProofRun.objects.filter(pk=proof.pk).update(due_at=clock.now())
    assert "It was tried 3 times" in proof.error
    assert artifact(record).damaged_at is None
    assert (proof.lease_owner, proof.lease_expires_at) == ("", None)


def test_damage_that_a_killed_worker_had_found_is_told_by_the_next(record: BackupRecord, tmp_path: Path) -> None:
    spoil(folder(record) / "configuration/part-00001.age", flipped)
    proof = request_proof(record, level=2, trigger="manual")
    kill_at(proof, "proof_ended", tmp_path / "killed")
    assert artifact(record, "configuration").damaged_at is not None
    assert not Message.objects.filter(kind="proof_failed").exists()
    assert carried_to_its_end(proof).state == "failed"
    assert Message.objects.filter(kind="proof_failed").count() == 1


def test_a_worker_that_slept_through_its_lease_writes_nothing(record: BackupRecord, tmp_path: Path) -> None:
    proof = request_proof(record, level=2, trigger="manual")
    process = worker(proof, kill_at="proof_artifact_climbed:STOP", killed=tmp_path / "stopped")
    try:
        wait_for(lambda: state_of(process.pid) == "T", process)
        assert (tmp_path / "stopped").read_text() == "proof_artifact_climbed"
        # Meanwhile the set is damaged, and another worker finds that out.
        tend_proofs(clock.now() + LATER)
        spoil(folder(record) / "configuration/part-00001.age", flipped)
        proof.refresh_from_db()
        ended = run_proof(proof.pk, owner="next", now=proof.due_at)
        assert ended is not None
        assert ended.state == "failed"
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
    assert out.splitlines()[-1] == "failed"  # what the row says, not what it saw
    row = artifact(record, "configuration")
    assert row.damaged_at is not None
    assert row.l2_at is None
    proof.refresh_from_db()
    assert (proof.state, proof.attempt) == ("failed", 2)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
