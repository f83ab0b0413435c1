"""bootstrap and doctor as an operator runs them: real processes on a fresh data directory."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.setup.conftest import ROOT, Manage, password_in
from tests.stack import doctor_at_leisure


def test_from_nothing_to_healthy_and_again_without_a_change(
    manage: Manage, environment: dict[str, str], redis_server_factory: Callable[..., Any]
) -> None:
    redis = redis_server_factory()
    environment["ZANTARA_REDIS_URL"] = redis.url

    before = doctor_at_leisure(lambda: manage("doctor"))
    assert before.returncode == 1
    assert "✗ FAIL database: there is no database yet → Run `manage.py bootstrap`." in before.stdout
    assert "Traceback" not in before.stdout + before.stderr
    data = Path(environment["ZANTARA_DATA_DIR"])
    assert not (data / "controlplane.sqlite3").exists()

    first = manage("bootstrap")
    assert first.returncode == 0, first.stderr
    assert len(password_in(first.stdout)) == 20
    assert "+ profiles: 5 rate-limit profiles created" in first.stdout
    assert "= limits: the limits are in force" in first.stdout
    assert "+ backups: made: recovery key, drill identity, manifest signing key, target local, source " in first.stdout
    assert first.stderr == ""
    private = {path.name: oct(path.stat().st_mode & 0o777) for path in (data, data / "controlplane.sqlite3")}
    assert private == {data.name: "0o700", "controlplane.sqlite3": "0o600"}

    again = manage("bootstrap", ZANTARA_ADMIN_PASSWORD="not-used-any-more")
    assert again.returncode == 0, again.stderr
    assert "password" not in again.stdout
    assert [line[0] for line in again.stdout.splitlines()] == ["="] * 8

    after = doctor_at_leisure(lambda: manage("doctor", "--json"))
    diagnosis = json.loads(after.stdout)
    assert (after.returncode, [f for f in diagnosis["findings"] if f["status"] == "fail"]) == (0, [])
    found = {finding["name"]: finding for finding in diagnosis["findings"]}
    assert found["migrations"]["summary"] == "none pending"
    assert found["secrets"]["summary"] == "7 files, readable by their owner only"
    assert "PING" in found["redis server"]["summary"]

    (data / "secrets" / "jwt_secret").chmod(0o644)
    redis.kill()
    ill = doctor_at_leisure(lambda: manage("doctor"))
    assert ill.returncode == 1
    assert "✗ FAIL zantara.E002: " in ill.stdout
    assert f"`chmod 600 {data}/secrets/jwt_secret`" in ill.stdout
    assert "✗ FAIL redis: Redis does not answer (ConnectionError) → Start Redis" in ill.stdout
    assert "Traceback" not in ill.stdout + ill.stderr
    for line in ill.stdout.splitlines():
        assert line.startswith(("✓ ok   ", "! warn ", "✗ FAIL ")), line
        assert line.startswith("✓") or "→" in line, line


def test_without_redis_bootstrap_warns_and_succeeds_and_a_given_password_is_not_shown(
    manage: Manage, environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse battery\n")
    result = manage("bootstrap", "--json", ZANTARA_ADMIN_PASSWORD_FILE=str(file))
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert "admin_password" not in answer
    assert "correct horse" not in result.stdout + result.stderr
    steps = {step["name"]: step["status"] for step in answer["steps"]}
    assert steps == {
        "migrations": "changed", "profiles": "changed", "groups": "changed", "schedules": "changed",
        "superuser": "changed", "limits": "warning", "backups": "changed", "deployments": "unchanged",
    }  # fmt: skip
    script = "from django.contrib.auth import authenticate as a; print(a(username='admin', password=input()).username)"
    checked = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "shell", "-v", "0", "-c", script],
        input="correct horse battery\n", capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert checked.stdout == "admin\n"


def test_two_at_once_take_turns_and_make_one_admin(environment: dict[str, str]) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "bootstrap"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for _ in range(2)
    ]  # fmt: skip
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len(password_in(answers[0][0] + answers[1][0])) == 20
    created = [out.count("5 rate-limit profiles created") for out, _ in answers]
    assert sorted(created) == [0, 1]
    lock = Path(environment["ZANTARA_DATA_DIR"]) / "run" / "bootstrap.lock"
    assert stat.S_ISREG(lock.stat().st_mode)


def test_an_unwritable_data_directory_is_one_sentence_with_a_remedy(manage: Manage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = manage("bootstrap", ZANTARA_DATA_DIR=str(tmp_path / "file" / "data"))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "ZANTARA_DATA_DIR" in result.stderr


def test_a_database_server_that_is_away_is_one_sentence_with_a_remedy(manage: Manage, tmp_path: Path) -> None:
    url = f"postgres://zt:hunter2@/zt?host={tmp_path}"
    result = manage("bootstrap", ZANTARA_DATABASE_URL=url)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "The database does not answer (OperationalError). Start the database server, or correct ZANTARA_DATABASE_URL.\n"
    )
    ill = doctor_at_leisure(lambda: manage("doctor", ZANTARA_DATABASE_URL=url))
    assert ill.returncode == 1
    assert "✗ FAIL database: the database does not answer (OperationalError) → Start the database server" in ill.stdout
    assert "hunter2" not in result.stderr + ill.stdout + ill.stderr


def test_the_list_of_checks_is_the_documented_one(manage: Manage) -> None:
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    documented = page.split("<!-- checks -->\n")[1].split("<!-- /checks -->")[0]
    assert manage("doctor", "--list-checks").stdout == documented
