"""``make backup-test`` and ``make recovery-test``: what they do without a stack, and on the running one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from backups.models import BackupPlan, BackupRecord
from tests import needs
from tests.stack import ROOT, Stack, stack, wait_for  # noqa: F401  (stack is a fixture)

from .conftest import Call

SEEDED = ("chroma", "configuration", "control-plane-database", "logs", "user-data", "zantara-memory-vectors")
START = "Start the stack with `make run` in another terminal, wait for “ready”, and try again."


@pytest.mark.parametrize("word", ["test", "recovery-test"])
def test_without_workers_it_says_so_in_one_sentence_and_does_nothing(call: Call, plan: BackupPlan, word: str) -> None:
    called = call("backup", word, "--json")
    assert called.code == 5
    assert called.document == {"error": "No stack runs: nobody works on work and proof.", "remedy": START}
    assert not BackupRecord.objects.exists()


def test_without_redis_it_says_so_in_one_sentence(
    call: Call, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kombu import Connection

    from backups.cli import cycle

    away = Connection(f"redis+socket://{tmp_path}/none.sock")
    monkeypatch.setattr(cycle, "current_app", SimpleNamespace(connection_for_write=lambda: away))
    called = call("backup", "test")
    assert called.code == 5
    assert called.err.startswith("No stack runs: its Redis does not answer (")
    assert called.err.endswith(f"). {START}\n")


def test_a_plan_without_vectors_cannot_be_recovered_in_a_test(
    call: Call, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups.cli import cycle

    monkeypatch.setattr(cycle, "demand_workers", lambda: None)
    called = call("backup", "recovery-test")
    assert called.code == 2
    assert called.err.startswith("The plan nightly saves no vectors of a service's memory")


@pytest.mark.parametrize(("target", "word"), [("backup-test", "test"), ("recovery-test", "recovery-test")])
def test_make_runs_the_command_and_passes_its_failure_on(tmp_path: Path, target: str, word: str) -> None:
    make = needs.command("make", package="make")
    shown = subprocess.run(
        [make, "--no-print-directory", "-n", "-C", str(ROOT), target], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == f".venv/bin/python manage.py backup {word}"


@pytest.mark.e2e
@pytest.mark.xdist_group("stack")
def test_a_stack_that_has_just_started_is_backed_up_drilled_lost_and_recovered(stack: Stack) -> None:  # noqa: F811
    """From ``make run`` on nothing: a first backup, its drill, and then both cycles by the stack's own workers."""

    def first() -> list[dict[str, object]]:
        listed = json.loads(stack.manage("backup", "list", "--json").stdout)
        parts: list[dict[str, object]] = listed[-1]["artifacts"] if listed else []
        return parts if parts and all(part["proof_level"] == 3 or part["damage"] for part in parts) else []

    parts = wait_for(first, 120, "the first backup was not drilled")
    assert {str(part["name"]): (part["proof_level"], part["damage"]) for part in parts} == dict.fromkeys(
        SEEDED, (3, "")
    )

    tested = stack.manage("backup", "test", timeout_seconds=240)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.splitlines()[-1].startswith("✓ proven: every part of zantara-backup-")

    recovered = stack.manage("backup", "recovery-test", "--json", timeout_seconds=240)
    assert recovered.returncode == 0, recovered.stdout + recovered.stderr
    document = json.loads(recovered.stdout)
    assert (document["proven"], document["score"] >= 80, document["vectors"]) == (True, True, 2)
