"""``manage.py restore --offline`` as processes: a database of its own, lost, and restored from the store alone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
Manage = Callable[..., subprocess.CompletedProcess[str]]
#: One worker runs them all: what they share is made once.
pytestmark = pytest.mark.xdist_group("offline")


def managing(folder: Path) -> Manage:
    """``manage.py`` of an installation of its own on SQLite, without Redis and without an identity."""
    ours = ("ZANTARA_", "DJANGO_", "PYTEST_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environ |= {"ZANTARA_DATA_DIR": str(folder / "data"), "ZANTARA_REDIS_URL": f"unix://{folder}/no-redis.sock"}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *words],
            capture_output=True, text=True, timeout=120, check=False, env={**environ, **more}, cwd=ROOT,
        )  # fmt: skip

    return run


@dataclass(frozen=True)
class Installation:
    """``saved`` is the name of a restore point of its own database."""

    data: Path
    manage: Manage
    saved: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Bootstrapped and backed up once; what is beside ``data`` is how it then looked."""
    folder = tmp_path_factory.mktemp("installation")
    manage = managing(folder)
    assert manage("bootstrap").returncode == 0
    run = manage("backup", "run", "--here", "--source", "control-plane-database", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    shutil.copytree(folder / "data", folder / "as-made")
    return Installation(folder / "data", manage, str(json.loads(run.stdout)["name"]))


@pytest.fixture
def installed(made: Installation) -> Installation:
    """The same one for every test, put back to how it was: its rows hold its path."""
    shutil.rmtree(made.data)
    shutil.copytree(made.data.with_name("as-made"), made.data)
    return made


def users(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute("SELECT username FROM auth_user ORDER BY username")]


def test_a_spoilt_database_comes_back_and_the_former_one_is_kept(installed: Installation) -> None:
    data, manage, saved = installed.data, installed.manage, installed.saved
    database, key = data / "controlplane.sqlite3", str(data / "secrets" / "recovery_key.txt")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE auth_user SET username = 'mallory'")
        connection.commit()

    preview = manage("restore", "latest", "--offline", "--preview")
    assert preview.returncode == 0, preview.stderr
    assert preview.stdout.splitlines()[0].startswith(f"{saved} of ")
    assert "  control-plane-database: " in preview.stdout

    words = ("restore", saved, "--offline", "--reason", "mallory was here")
    refused = manage(*words, "--identity", key)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"A restore replaces live data. Look at --preview, then add --confirm {saved}\n"
    nobody = manage(*words, "--confirm", saved)
    assert (nobody.returncode, nobody.stderr) == (
        4, "Nothing here opens the restore point. Give the file of the recovery key with --identity.\n",
    )  # fmt: skip
    assert users(database) == ["mallory"]

    restored = manage(*words, "--confirm", saved, "--identity", key)
    assert restored.returncode in (0, 3), restored.stderr
    assert users(database) == ["admin"]
    last = restored.stdout.splitlines()[-1]
    assert last.startswith("✓ zantara-restore-")
    former = Path(last.rsplit(": ", 1)[1])
    assert users(former) == ["mallory"]
    listed = json.loads(manage("backup", "list", "--json").stdout)
    assert [(row["name"], row["state"]) for row in listed] == [(saved, "committed")]


def test_a_directory_with_sets_is_enough_where_the_rows_are_gone(installed: Installation, tmp_path: Path) -> None:
    data, manage, saved = installed.data, installed.manage, installed.saved
    database, key = data / "controlplane.sqlite3", str(data / "secrets" / "recovery_key.txt")
    for name in ("", "-wal", "-shm"):
        database.with_name(database.name + name).unlink(missing_ok=True)
    words = ("restore", "latest", "--offline", "--confirm", saved, "--reason", "gone", "--identity", key, "--json")
    unknown = manage(*words)
    assert unknown.returncode == 2
    assert "--from" in json.loads(unknown.stdout)["remedy"]
    assert manage(*words, "--from", str(tmp_path / "nowhere")).returncode == 2

    restored = manage(*words, "--from", str(data / "backups"))
    assert restored.returncode in (0, 3), restored.stderr
    document = json.loads(restored.stdout)
    assert document["record_name"] == saved
    assert users(database) == ["admin"]


def test_names_that_do_not_exist_are_refused(installed: Installation) -> None:
    manage, saved = installed.manage, installed.saved
    target = manage("restore", saved, "--offline", "--preview", "--target", "barn")
    assert (target.returncode, target.stderr) == (2, "There is no target named barn. There are: local.\n")
    record = manage("restore", "nope", "--offline", "--preview")
    assert record.returncode == 2
    assert "no committed restore point 'nope'" in record.stderr
    part = manage("restore", saved, "--offline", "--preview", "--part", "nope")
    assert part.returncode == 2
    assert "It holds: control-plane-database." in part.stderr
    two = manage("restore", saved, "--offline", "--preview", "--part", "a", "--part", "b")
    assert two.stderr == "Offline, one part is restored. Leave --part out, or name the database.\n"


@pytest.mark.parametrize("words", [("backup", "list"), ("backup", "run"), ("restore", "latest", "--preview")])
def test_without_a_database_it_is_one_sentence_with_a_remedy(tmp_path: Path, words: tuple[str, ...]) -> None:
    called = managing(tmp_path)(*words, "--json")
    assert called.returncode == 5
    assert called.stderr == (
        "The control plane's database cannot be asked (OperationalError). Run `manage.py bootstrap` if there is none "
        "yet; `manage.py doctor` says what else is wrong.\n"
    )
    assert json.loads(called.stdout)["error"].startswith("The control plane's database")
