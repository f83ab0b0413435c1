"""``manage.py backup``: every word, its exit codes and its two forms of output."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backups.models import BackupPlan, BackupRecord, BackupSource, ProofRun, StorageTarget
from controlplane.kernel import clock
from tests.backups import factories

from .conftest import Call

ROOT = Path(__file__).parents[3]
#: A bucket on a port where nothing listens.
AWAY: dict[str, Any] = {
    "kind": "s3", "endpoint_url": "http://127.0.0.1:9", "bucket": "bucket", "path_style": True, "path": "",
    "access_key_id": "key", "secret_access_key": "secret",
}  # fmt: skip


# --- run -----------------------------------------------------------------------------------------------------------


def test_a_run_here_commits_and_says_what_it_saved(call: Call, plan: BackupPlan) -> None:
    called = call("backup", "run", "--here", "--reason", "before the move")
    record = BackupRecord.objects.get()
    assert (called.code, called.err) == (0, "")
    lines = called.out.splitlines()
    assert lines[-1].startswith(f"✓ {record.name} committed to shed: ")
    assert [line.split(":")[0].strip() for line in lines[-3:-1]] == ["config", "extra"]
    assert (record.state, record.trigger, record.reason, record.only_sources) == (
        "committed", "manual", "before the move", [],
    )  # fmt: skip
    assert record.requested_by.endswith("(command line)")


def test_one_source_alone_is_saved_where_it_is_named(call: Call, plan: BackupPlan) -> None:
    called = call("backup", "run", "--here", "--plan", "nightly", "--source", "extra", "--json")
    assert called.code == 0
    document = called.document
    assert [artifact["name"] for artifact in document["artifacts"]] == ["extra"]
    assert (document["state"], document["plan"], document["target"]) == ("committed", "nightly", "shed")
    assert document["artifacts"][0]["restore_line"].startswith("set -o pipefail; cat ")


def test_a_run_with_warnings_has_an_exit_code_of_its_own(
    call: Call, plan: BackupPlan, with_warning: BackupSource
) -> None:
    called = call("backup", "run", "--here")
    assert called.code == 3
    assert next(line for line in called.out.splitlines() if line.startswith("! ")).startswith("! extra: ")
    assert "missing.toml" in called.out
    assert BackupRecord.objects.get().state == "committed"


def test_a_run_that_fails_says_which_source_and_why(call: Call, plan: BackupPlan, tmp_path: Path) -> None:
    (tmp_path / "extra" / "b.txt").unlink()
    called = call("backup", "run", "--here", "--json")
    assert called.code == 1
    assert called.document["state"] == "failed"
    assert "extra: " in called.document["error"]
    assert called.document["artifacts"] == []


def test_names_that_do_not_exist_are_refused_with_those_that_do(call: Call, plan: BackupPlan) -> None:
    wrong = call("backup", "run", "--here", "--plan", "weekly")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err == "There is no plan named weekly. There are: nightly.\n"
    wrong = call("backup", "run", "--here", "--source", "conf")
    assert (wrong.code, wrong.err) == (
        2, "The plan nightly has no enabled source named conf. It has: config, extra.\n",
    )  # fmt: skip
    factories.files_plan(Path(str(plan.target.path)).parent / "other", name="other")
    wrong = call("backup", "run", "--here", "--json")
    assert wrong.code == 2
    remedy = "Name one with --plan: nightly, other."
    assert wrong.document == {"error": "There is more than one plan.", "remedy": remedy}
    assert BackupRecord.objects.count() == 0


def test_a_second_run_of_a_plan_is_refused_while_one_goes_on(call: Call, plan: BackupPlan) -> None:
    going = factories.record_of(plan, state="running", lease_expires_at=clock.now() + timedelta(minutes=1))
    called = call("backup", "run", "--here")
    assert called.code == 2
    assert called.err.startswith(f"{going.name} of the plan nightly is running: ")


def test_without_here_a_worker_does_it_and_the_command_watches(
    call: Call, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups.cli import output
    from backups.engine.run import run_backup

    monkeypatch.setattr(output, "NO_WORKER_SECONDS", 0.3)
    monkeypatch.setattr(output, "POLL_SECONDS", 0.05)
    warned, warn = threading.Event(), output.Output.warn

    def warn_and_let_go(self: output.Output, text: str) -> None:
        warn(self, text)
        warned.set()

    monkeypatch.setattr(output.Output, "warn", warn_and_let_go)

    def work() -> None:
        from django.db import connection

        warned.wait(60)
        run_backup(BackupRecord.objects.get().pk, owner="a worker")
        connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    called = call("backup", "run")
    worker.join()
    assert called.code == 0
    name = BackupRecord.objects.get().name
    assert called.out.splitlines()[0] == f"{name}: queued"
    assert called.err == (
        "No worker has taken it yet. Is the stack running? (`--here` does the work in this process.)\n"
    )


def test_an_attempt_that_will_be_repeated_is_told_and_not_waited_for_here(
    call: Call, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = BackupSource.objects.get(name="extra")
    source.kind, source.settings = "chroma", {"url": "http://127.0.0.1:9"}
    source.save()
    called = call("backup", "run", "--here")
    record = BackupRecord.objects.get()
    assert (called.code, record.state, record.attempt) == (1, "queued", 1)
    assert f"✗ {record.name}: extra: " in called.out
    assert "(attempt 2)" in called.out


def test_ctrl_c_leaves_the_run_to_its_worker(call: Call, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    from backups.cli import output

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output.Output, "follow", interrupted)
    called = call("backup", "run")
    assert (called.code, called.err) == (130, "Interrupted. What a worker has begun goes on.\n")
    assert BackupRecord.objects.get().state == "queued"


def test_progress_on_a_terminal_is_a_bar_and_in_a_pipe_are_lines(
    plan: BackupPlan, data_dir: Path, tmp_path: Path
) -> None:
    from tests.kernel.racing import database_url

    environ = {
        **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
        "ZANTARA_DATABASE_URL": database_url(),
        "TERM": "xterm",
    }
    command = [sys.executable, str(ROOT / "manage.py"), "backup", "run", "--here"]
    piped = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)
    assert piped.returncode == 0, piped.stderr
    assert "\x1b" not in piped.stdout
    assert "committed to shed" in piped.stdout

    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(ours)
    assert process.wait(60) == 0
    assert b"\x1b[" in seen
    assert b"committed to shed" in seen


# --- list ----------------------------------------------------------------------------------------------------------


def test_without_restore_points_the_list_says_how_to_make_one(call: Call, plan: BackupPlan) -> None:
    assert call("backup", "list").out == "No restore points yet. `manage.py backup run` makes the first one.\n"
    assert call("backup", "list", "--json").document == []


def test_the_list_has_sizes_and_the_level_and_age_of_proof(call: Call, plan: BackupPlan) -> None:
    now = clock.now()
    proven = factories.record_of(plan, at=now - timedelta(hours=5), plain_bytes=2048, stored_bytes=1024)
    factories.artifact_of(proven, name="a", l3_at=now - timedelta(hours=3))
    factories.artifact_of(proven, name="b", l2_at=now - timedelta(hours=4))
    damaged = factories.record_of(plan, at=now - timedelta(hours=30))
    factories.artifact_of(damaged, l3_at=now, damaged_at=now, damage="a part is missing")
    factories.record_of(plan, state="deleted", at=now - timedelta(days=40))
    rows = [line.split() for line in call("backup", "list").out.splitlines()]
    assert rows[1][0] == proven.name
    assert " ".join(rows[1][1:]) == "nightly committed 5 h ago 2.0 KiB → 1.0 KiB L2 readable, 4 h ago"
    assert rows[2][-1] == "–"
    assert len(rows) == 3
    assert len(call("backup", "list", "--all", "--json").document) == 3
    assert [row["name"] for row in call("backup", "list", "--limit", "1", "--json").document] == [proven.name]
    first = call("backup", "list", "--plan", "nightly", "--json").document[0]
    assert (first["proof_level"], first["artifacts"][1]["damage"]) == (2, "")


def test_the_lines_for_stock_tools_are_shown_on_demand(call: Call, plan: BackupPlan) -> None:
    call("backup", "run", "--here", "--source", "extra")
    shown = call("backup", "list", "--lines").out
    assert "# zantara-backup-" in shown
    line = next(line for line in shown.splitlines() if line.startswith("set -o pipefail; "))
    assert "| age --decrypt --identity recovery_key.txt | zstd --decompress --stdout | tar" in line
    assert "set -o" not in call("backup", "list").out


# --- verify and drill ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "level"),
    [(("verify", "--level", "0"), 0), (("verify", "--level", "1"), 1), (("verify",), 2), (("drill",), 3)],
)
def test_each_step_of_the_ladder_is_climbed_and_recorded(
    call: Call, plan: BackupPlan, drill_key: str, words: tuple[str, ...], level: int
) -> None:
    call("backup", "run", "--here")
    identity = ("--identity", drill_key) if level >= 2 else ()
    called = call("backup", words[0], "latest", *words[1:], "--here", *identity)
    record = BackupRecord.objects.get()
    assert called.code == 0, called.out + called.err
    assert called.out.splitlines()[-1].startswith(f"✓ {record.name}: L{level} ")
    assert called.out.splitlines()[-1].endswith(", proven")
    assert {artifact.proof_level for artifact in record.artifacts.all()} == {level}
    assert "ZANTARA_DRILL_IDENTITY_FILE" not in os.environ


def test_one_part_alone_is_drilled(call: Call, plan: BackupPlan, drill_key: str) -> None:
    call("backup", "run", "--here")
    called = call("backup", "drill", "latest", "--part", "extra", "--here", "--identity", drill_key, "--json")
    assert called.code == 0
    assert (called.document["level"], called.document["state"]) == (3, "passed")
    levels = {artifact.name: artifact.proof_level for artifact in BackupRecord.objects.get().artifacts.all()}
    assert levels["extra"] == 3
    assert levels["config"] != 3
    wrong = call("backup", "drill", "latest", "--part", "extras", "--here")
    assert wrong.code == 2
    assert wrong.err.endswith("has no part named extras. It has: config, extra.\n")


def test_without_an_identity_a_drill_is_not_possible_and_nothing_is_said_of_the_set(
    call: Call, plan: BackupPlan
) -> None:
    call("backup", "run", "--here")
    called = call("backup", "drill", "latest", "--here", "--json")
    assert (called.code, called.document["state"]) == (4, "not_possible")
    assert ProofRun.objects.get().state == "not_possible"
    assert all(artifact.damaged_at is None for artifact in BackupRecord.objects.get().artifacts.all())


def test_a_damaged_set_fails_its_proof(call: Call, plan: BackupPlan, drill_key: str, tmp_path: Path) -> None:
    call("backup", "run", "--here")
    part = next((tmp_path / "store").rglob("config/part-00001.age"))
    body = bytearray(part.read_bytes())
    body[-1] ^= 1
    part.chmod(0o600)
    part.write_bytes(body)
    called = call("backup", "verify", "latest", "--here", "--identity", drill_key)
    assert called.code == 1
    assert "FAILED" in called.out.splitlines()[-1]
    assert "✗ config: " in called.out


def test_a_store_that_is_away_is_unknown_and_never_damaged(call: Call, plan: BackupPlan, impatient: None) -> None:
    call("backup", "run", "--here")
    shed = StorageTarget.objects.get(name="shed")
    for column, value in AWAY.items():
        setattr(shed, column, value)
    shed.save()
    called = call("backup", "verify", "latest", "--level", "0", "--here")
    assert called.code == 5, called.out
    assert "unknown, nothing was learned" in called.out
    assert all(artifact.damaged_at is None for artifact in BackupRecord.objects.get().artifacts.all())


def test_an_identity_without_here_and_an_unknown_record_are_refused(call: Call, plan: BackupPlan) -> None:
    assert call("backup", "drill", "latest").err == (
        "There is no committed restore point yet. Run `manage.py backup run`.\n"
    )
    call("backup", "run", "--here")
    name = BackupRecord.objects.get().name
    assert call("backup", "verify", "nope").err == f"There is no restore point named nope. The newest: {name}.\n"
    called = call("backup", "drill", "latest", "--identity", "x")
    assert (called.code, called.err) == (
        2, "--identity is for work in this process. Add --here, or leave --identity out.\n",
    )  # fmt: skip
    assert not ProofRun.objects.exists()


# --- health and prune ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [("pass", 0), ("fail", 1), ("warn", 3), ("unknown", 5)])
def test_health_is_lines_with_remedies_and_a_code_for_each_status(
    call: Call, plan: BackupPlan, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    from backups import health

    check = health.Check("storage:shed", status, "it is as it is", "Look at it.")  # type: ignore[arg-type]
    monkeypatch.setattr(health, "checks", lambda now: iter([check]))
    called = call("backup", "health")
    mark = {"pass": "✓", "fail": "✗", "warn": "!", "unknown": "?"}[status]
    assert (called.code, called.out) == (code, f"{mark} storage:shed: it is as it is → Look at it.\n")


def test_health_looks_at_stores_plans_and_proofs(call: Call, plan: BackupPlan) -> None:
    called = call("backup", "health", "--json")
    assert called.code == {"warn": 3, "unknown": 5}[called.document["status"]]
    names = {check["name"] for check in called.document["checks"]}
    assert {"storage:shed", "backup:nightly", "proof:nightly", "compression:nightly"} <= names


def test_prune_says_what_it_would_do_and_then_does_it(call: Call, plan: BackupPlan) -> None:
    now = clock.now()
    for days in (1, 2, 40):
        record = factories.record_of(plan, at=now - timedelta(days=days))
        factories.artifact_of(record, name="a", l2_at=now)
    dry = call("backup", "prune", "--dry-run", "--json").document["nightly"]
    assert [row["keep"] for row in dry] == [True, True, False]
    assert all(row["reasons"] for row in dry)
    assert BackupRecord.objects.filter(state="expiring").count() == 0
    told = call("backup", "prune", "--dry-run", "--plan", "nightly").out
    assert told.startswith("plan nightly:\n")
    assert "delete  " in told
    called = call("backup", "prune")
    assert called.code == 0
    assert called.out == "plan nightly: 1 marked (undo for a day), 0 deleted, 0 B freed\n"
    assert BackupRecord.objects.get(state="expiring").name == dry[2]["name"]
    assert call("backup", "prune", "--dry-run", "--plan", "nope").code == 2


# --- kit and catalogue ---------------------------------------------------------------------------------------------


def test_the_kit_is_written_once_and_installed_with_the_recovery_key(
    call: Call, plan: BackupPlan, data_dir: Path, tmp_path: Path
) -> None:
    file, key = tmp_path / "kit.age", data_dir / "secrets" / "recovery_key.txt"
    written = call("backup", "kit", "--output", str(file))
    assert (written.code, oct(file.stat().st_mode & 0o777)) == (0, "0o600")
    assert file.read_bytes().startswith(b"age-encryption.org/v1")
    body = file.read_bytes()
    again = call("backup", "kit", "--output", str(file), "--json")
    assert (again.code, again.document["error"]) == (2, f"{file} exists already.")
    assert file.read_bytes() == body
    assert call("backup", "kit", "--output", str(tmp_path / "no" / "kit")).code == 2

    BackupPlan.objects.all().delete()
    StorageTarget.objects.all().delete()
    assert call("backup", "kit", "--install", str(file)).err == (
        "A kit is opened with the recovery key. Give its file with --identity.\n"
    )
    wrong = call("backup", "kit", "--install", str(file), "--identity", str(data_dir / "secrets/drill_identity.txt"))
    assert wrong.code == 4
    assert not StorageTarget.objects.exists()
    installed = call("backup", "kit", "--install", str(file), "--identity", str(key))
    assert installed.code == 0
    assert installed.out.splitlines()[:2] == [f"✓ {file} installed", "  targets added: shed"]
    assert StorageTarget.objects.get().name == "shed"


def test_the_catalogue_comes_back_from_kit_and_store_alone(
    call: Call, plan: BackupPlan, data_dir: Path, tmp_path: Path
) -> None:
    call("backup", "run", "--here")
    name = BackupRecord.objects.get().name
    kit, key = str(tmp_path / "kit.age"), str(data_dir / "secrets" / "recovery_key.txt")
    call("backup", "kit", "--output", kit)
    BackupRecord.objects.all().delete()
    BackupPlan.objects.all().delete()
    StorageTarget.objects.all().delete()
    assert call("backup", "rebuild-catalogue").err == (
        "There is no target yet. Install a kit with --kit, or add the target in the admin.\n"
    )
    rebuilt = call("backup", "rebuild-catalogue", "--kit", kit, "--identity", key, "--json")
    assert rebuilt.code == 0
    assert rebuilt.document["kit"]["added_targets"] == ["shed"]
    assert rebuilt.document["targets"]["shed"]["added"] == [name]
    assert BackupRecord.objects.get().state == "committed"
    again = call("backup", "rebuild-catalogue", "--target", "shed")
    assert (again.code, again.out) == (0, "✓ shed: 0 restore points added, 1 were known\n")
    assert call("backup", "rebuild-catalogue", "--target", "barn").err == (
        "There is no target named barn. There are: shed.\n"
    )


def test_a_set_that_nobody_here_trusts_is_a_warning_and_a_store_that_is_away_unknown(
    call: Call, plan: BackupPlan, data_dir: Path, impatient: None
) -> None:
    call("backup", "run", "--here")
    BackupRecord.objects.all().delete()
    for name in ("manifest_signing_key.pem", "manifest_signing_key.pub"):
        (data_dir / "secrets" / name).unlink()
    called = call("backup", "rebuild-catalogue")
    assert called.code == 3
    assert called.out.startswith("! shed: 0 restore points added, 0 were known\n  ! sets/nightly/")
    assert not BackupRecord.objects.exists()
    StorageTarget.objects.create(name="away", **AWAY)
    away = call("backup", "rebuild-catalogue", "--json")
    assert away.code == 5
    assert set(away.document["targets"]) == {"away", "shed"}


# --- all -----------------------------------------------------------------------------------------------------------


def test_wrong_words_are_argparses_business_and_the_help_names_the_exit_codes(data_dir: Path) -> None:
    def manage(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "backup", *words],
            capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ),
        )  # fmt: skip

    assert manage("fly").returncode == 2
    shown = manage("--help")
    assert shown.returncode == 0
    for word in ("run", "list", "verify", "drill", "health", "prune", "rebuild-catalogue", "kit", "exit codes: 0 done"):
        assert word in shown.stdout


def test_every_document_is_one_even_where_it_is_an_error(call: Call, plan: BackupPlan) -> None:
    called: Any = call("backup", "verify", "nope", "--json")
    assert json.loads(called.out) == {"error": "There is no restore point named nope.", "remedy": "The newest: none."}
    assert called.err == "There is no restore point named nope. The newest: none.\n"
