"""A small living system: a tree of files, an SQLite database, a service, a health address, and one restore point."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backups import keys
from backups.models import BackupPlan, BackupRecord, BackupSource, ControlledService, RestoreRecord
from backups.restore import health
from backups.restore.requests import request_restore
from backups.restore.run import run_restore
from tests.backups import factories
from tests.backups.restore.health_server import HealthServer
from tests.backups.restore.toy_service import pid_of

TOY = Path(__file__).with_name("toy_service.py")


@dataclass
class Living:
    """``tree`` and ``database`` are what is saved; ``record`` holds their first state."""

    root: Path
    plan: BackupPlan
    tree: Path
    database: Path
    record: BackupRecord
    service: Path
    health: HealthServer

    @property
    def names(self) -> list[str]:
        return ["config", "ledger"]

    def state(self) -> dict[str, Any]:
        """Everything that a restore could change; what it keeps beside meanwhile is told by ``leftovers``."""
        found = [p for p in sorted(self.tree.rglob("*")) if p.is_file() and ".zantara-restore-" not in str(p)]
        files = {str(path.relative_to(self.tree)): path.read_bytes() for path in found}
        with closing(sqlite3.connect(self.database)) as connection:
            rows = connection.execute("SELECT id, text FROM entries ORDER BY id").fetchall()
        return {"files": files, "rows": rows}

    def change(self) -> dict[str, Any]:
        """Make it something else than what was saved; the state then."""
        (self.tree / "app.env").write_text("MODE=broken\n")
        (self.tree / "deep" / "big.bin").write_bytes(b"\0" * 10)
        (self.tree / "new.txt").write_text("made after the backup\n")
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("DELETE FROM entries WHERE id % 2 = 0")
            connection.execute("INSERT INTO entries (text) VALUES ('after')")
            connection.commit()
        return self.state()

    def ask(self, **request: Any) -> RestoreRecord:
        return request_restore(
            self.record,
            **{"artifacts": self.names, "requested_by": "ops", "reason": "a test", "send": False, **request},
        )

    def restore(self, row: RestoreRecord | None = None, **request: Any) -> RestoreRecord:
        row = row or self.ask(**request)
        ended = run_restore(row.pk, owner="worker-1", patience_seconds=1)
        assert ended is not None
        return ended

    def unwell_when_restored(self) -> None:
        """The service behind the health address answers 503 as long as the saved configuration is live."""
        saved = b"MODE=good\n"
        self.health.status = lambda: 503 if (self.tree / "app.env").read_bytes() == saved else 200

    def service_runs(self) -> bool:
        return pid_of(self.service) is not None

    def service_log(self) -> list[str]:
        return (self.service / "log").read_text().split()

    def leftovers(self) -> list[str]:
        """Whatever a restore has left beside the live data or in its own folder."""
        found = [path for path in self.root.rglob("*") if re.search(r"(restore|before)-r", path.name)]
        found += list((self.root / "data" / "restores").glob("work/*"))
        return sorted(str(path.relative_to(self.root)) for path in found)


@pytest.fixture
def data_dir(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of this test's own, with keys; this process is the proof worker."""
    folder = tmp_path / "data"
    folder.mkdir()
    settings.ZANTARA_DATA_DIR = folder
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(folder))
    keys.ensure_keys()
    monkeypatch.setenv("ZANTARA_DRILL_IDENTITY_FILE", str(folder / "secrets" / "drill_identity.txt"))
    return folder


@pytest.fixture
def health_server(settings: Any) -> Iterator[HealthServer]:
    server = HealthServer()
    settings.ZANTARA_SERVICES = [f"control-plane={server.url}"]
    yield server
    server.close()


@pytest.fixture
def living(
    tmp_path: Path, data_dir: Path, health_server: HealthServer, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Living]:
    monkeypatch.setattr(health, "_PAUSE_SECONDS", 0.05)
    tree, database, service = tmp_path / "tree", tmp_path / "ledger.sqlite3", tmp_path / "service"
    service.mkdir()
    contents = {"app.env": b"MODE=good\n", "deep/big.bin": bytes(range(256)) * 5000, "deep/er/x": b"x"}
    files = factories.files_source(
        tree, contents=contents, name="config", settings={"base": str(tree), "patterns": "**"}
    )
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO entries (text) VALUES (?)", [(f"row {n}",) for n in range(500)])
        connection.commit()
    ledger = BackupSource.objects.create(name="ledger", kind="sqlite", settings={"path": str(database)})
    plan = factories.plan_of(factories.local_target(tmp_path / "store"), [files, ledger], name="all")
    record = factories.run_now(plan)
    assert record.state == "committed", record.error
    command = f"{sys.executable} {TOY} {{}} {service}"
    ControlledService.objects.create(
        name="toy",
        stop_command=command.format("stop"),
        start_command=command.format("start"),
        status_command=command.format("status"),
        timeout_seconds=10,
    )
    yield Living(tmp_path, plan, tree, database, record, service, health_server)
    if pid := pid_of(service):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(tmp_path / "store", ignore_errors=True)


@pytest.fixture
def with_service(living: Living) -> Callable[[], Living]:
    """The living system with its service running."""
    subprocess.run([sys.executable, str(TOY), "start", str(living.service)], check=True, timeout=20)
    return lambda: living
