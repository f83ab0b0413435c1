"""``make backup-test`` and ``make recovery-test``: what they do without a stack, and on the running one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from backups.models import BackupPlan, BackupRecord
from tests import needs
from tests.stack import ROOT

from .conftest import Call

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
