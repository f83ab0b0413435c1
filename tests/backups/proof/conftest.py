from __future__ import annotations

from pathlib import Path

import pytest

from backups import keys
from backups.models import BackupRecord
from tests.backups import factories

CONTENTS = {"notes.txt": b"kept\n" * 1000, "deep/er/data.bin": bytes(range(256)) * 8192}


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the proof worker's environment has."""
    keys.ensure_keys()
    monkeypatch.setenv("ZANTARA_DRILL_IDENTITY_FILE", str(keys.folder() / "drill_identity.txt"))


@pytest.fixture
def record(tmp_path: Path, transactional_db: None) -> BackupRecord:
    """A committed set of two files sources, of the real engine."""
    keys.ensure_keys()
    sources = [
        factories.files_source(tmp_path / name, name=name, contents=CONTENTS) for name in ("configuration", "uploads")
    ]
    plan = factories.plan_of(factories.local_target(tmp_path / "store"), sources, name="zantara")
    return factories.run_now(plan)
