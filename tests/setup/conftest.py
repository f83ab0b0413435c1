from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Manage = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A fresh installation of its own: its data directory, SQLite in it, and no Redis unless a test adds one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZANTARA_")}
    return {**kept, "ZANTARA_DATA_DIR": str(tmp_path / "data"), "ZANTARA_LOG_LEVEL": "WARNING"}


@pytest.fixture
def manage(environment: dict[str, str]) -> Manage:
    """Run manage.py as an operator does."""

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            capture_output=True, text=True, check=False, timeout=120, env={**environment, **extra},
        )  # fmt: skip

    return run


def password_in(output: str) -> str:
    found = re.findall(r"^admin password: (\S+)$", output, re.MULTILINE)
    assert len(found) == 1, output
    return str(found[0])
