"""What a test needs of the machine, and what happens where the machine lacks it.

Everywhere a test that cannot run says so and why; with ``CI=true`` that is a failure, because there
the machine was prepared for all of them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def leave_out(why: str) -> NoReturn:
    """Skip the running test with a reason, or fail it in CI."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"cannot run here: {why}", pytrace=False)
    pytest.skip(f"left out: {why}")


def command(*names: str, package: str) -> str:
    """The path of the first of these programs on PATH; the test is left out where there is none."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    leave_out(f"{names[0]} is not installed (Debian package {package})")


def postgres_bin() -> Path | None:
    """The folder of the newest PostgreSQL server's programs, if one is installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None
