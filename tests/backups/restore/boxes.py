"""Carry out acts in an installation of its own; see ``box``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


class Box:
    """A machine with its data directory, the store in it. ``database_url``: empty for SQLite in ``data``."""

    def __init__(self, root: Path, *, database_url: str = "") -> None:
        self.root, self.data, self.tree = root, root / "data", root / "tree"
        self.store = self.data / "sets"
        for folder in (self.data, self.tree, self.store):
            folder.mkdir(parents=True, exist_ok=True)
        (self.tree / "a.txt").write_text("a\n")
        self.database_url = database_url
        self.identity = self.data / "secrets" / "recovery_key.txt"
        self.environ: dict[str, str] = {}
        from controlplane.kernel.env import Env
        from controlplane.kernel.local_secrets import ensure_local_secrets

        ensure_local_secrets(Env({"ZANTARA_DATA_DIR": str(self.data)}))

    def copy(self, root: Path) -> Box:
        """The same machine again, to be hurt."""
        shutil.copytree(self.root, root, symlinks=True)
        return Box(root)

    @property
    def database(self) -> Path:
        return self.data / "controlplane.sqlite3"

    def start(self, act: str, **given: Any) -> subprocess.Popen[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("ZANTARA_") or name in ("ZANTARA_REDIS_URL", "ZANTARA_TEST_ROOT")
        }
        environ = {
            **kept,
            "ZANTARA_DATA_DIR": str(self.data),
            "ZANTARA_LOG_LEVEL": "ERROR",
            "PYTHONWARNINGS": "ignore",
            "BOX_TREE": str(self.tree),
            "BOX_STORE": str(self.store),
            "BOX_IDENTITY": str(self.identity),
            **({"ZANTARA_DATABASE_URL": self.database_url} if self.database_url else {}),
            **self.environ,
        }
        argv = [sys.executable, "-m", "tests.backups.restore.box", act, json.dumps(given)]
        return subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True)

    def do(self, act: str, **given: Any) -> dict[str, Any]:
        process = self.start(act, **given)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, f"{act} failed"
        found: dict[str, Any] = json.loads(said)
        return found

    def kill_at(self, point: str, act: str, **given: Any) -> None:
        proof = self.root / "killed"
        proof.unlink(missing_ok=True)
        self.environ = {"ZANTARA_TEST_KILL_AT": point, "ZANTARA_TEST_KILLED": str(proof)}
        try:
            process = self.start(act, **given)
            said, _ = process.communicate(timeout=120)
        finally:
            self.environ = {}
        assert process.returncode == -signal.SIGKILL, f"the fault {point} never fired: {said}"
        assert proof.read_text() == point
