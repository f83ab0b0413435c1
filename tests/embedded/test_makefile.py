"""``make`` sets the environment up, once, and says in one sentence what it misses. No package is fetched here."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs
from tests.stack import ROOT

#: What the recipe may use besides Python.
TOOLS = ("sh", "cat", "cksum", "pwd", "rm", "awk")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with locks that name nothing."""
    needs.command("make", package="make")
    folder = tmp_path / "a checkout"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("embedded", "dev"):
        (folder / "requirements" / f"{name}.txt").write_text("# nothing\n")
    return folder


def make(folder: Path, target: str, *variables: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "PYTHON"}
    if path is not None:
        environ["PATH"] = path
    return subprocess.run(
        [str(shutil.which("make")), "--no-print-directory", "-C", str(folder), target, "UV_PIN=", *variables],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def path_with(folder: Path, **programs: str) -> str:
    """A PATH with the needed tools and these scripts alone."""
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name, script in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(folder)


def test_the_environment_is_made_once_and_a_second_run_does_nothing(checkout: Path) -> None:
    first = make(checkout, "venv", f"PYTHON={sys.executable}")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "installing the locked packages of requirements/embedded.txt"
    second = make(checkout, "venv")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

    # An installation that was interrupted has no stamp and is done again, in the same environment.
    marker = checkout / ".venv" / "marker"
    marker.touch()
    (checkout / ".venv" / ".installed-embedded").unlink()
    assert make(checkout, "venv").stdout == "installing the locked packages of requirements/embedded.txt\n"
    assert marker.exists()

    # A changed lock is installed; a lock that holds more serves for both.
    (checkout / "requirements" / "embedded.txt").write_text("# nothing, again\n")
    assert make(checkout, "venv-dev").stdout == "installing the locked packages of requirements/dev.txt\n"
    assert make(checkout, "venv").stdout == ""

    # An environment whose creation was interrupted, or whose checkout was moved, is made anew.
    moved = checkout.with_name("moved")
    checkout.rename(moved)
    third = make(moved, "venv", f"PYTHON={sys.executable}")
    assert third.returncode == 0, third.stderr
    assert third.stdout.startswith("making the virtual environment")
    assert not (moved / ".venv" / "marker").exists()


def test_no_python_that_is_new_enough(checkout: Path, tmp_path: Path) -> None:
    old = 'case "$*" in *version_info*) exit 1;; esac; exit 0'
    done = make(checkout, "venv", path=path_with(tmp_path / "bin", python3=old, **{"python3.13": "exit 127"}))
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "Python 3.11 or newer was not found: install it (Debian: apt install python3 python3-venv), "
        "or name it with PYTHON=/path/to/python3."
    )
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv(checkout: Path, tmp_path: Path) -> None:
    without = 'case "$*" in *venv*) exit 1;; esac; exit 0'
    done = make(checkout, "venv", path=path_with(tmp_path / "bin", **{"python3.12": without}))
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "python3.12 has no venv module: install it (Debian: apt install python3-venv)."
    )
    assert not (checkout / ".venv").exists()


def test_the_interpreter_that_is_too_old_is_passed_over(checkout: Path, tmp_path: Path) -> None:
    path = path_with(tmp_path / "bin", **{"python3.13": "exit 1", "python3.11": f'exec "{sys.executable}" "$@"'})
    done = make(checkout, "venv", path=f"{path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("making the virtual environment .venv with Python 3.")


def test_packages_that_cannot_be_installed_leave_no_stamp(checkout: Path) -> None:
    (checkout / "requirements" / "embedded.txt").write_text("not-a-package @ file:///nowhere --hash=sha256:00\n")
    done = make(checkout, "venv", f"PYTHON={sys.executable}")
    assert done.returncode == 2
    assert "The packages could not be installed; see the lines above, then run make again." in done.stderr
    assert not (checkout / ".venv" / ".installed-embedded").exists()


def test_every_target_is_explained(checkout: Path) -> None:
    text = make(checkout, "help").stdout
    names = [line.split()[1] for line in text.splitlines()]
    assert names == [
        "help",
        "run",
        "test",
        "test-faults",
        "backup-test",
        "recovery-test",
        "bench",
        "lint",
        "typecheck",
        "format",
        "lock",
        "clean",
    ]
