from __future__ import annotations

from pathlib import Path

import pytest

from backups import keys
from backups.models import BackupRecord
from tests.backups import factories

CONTENTS = {"notes.txt": b"kept\n" * 1000, "deep/er/data.bin": bytes(range(256)) * 8192, "ä ö.txt": "ü".encode()}


@pytest.fixture
def record(tmp_path: Path, transactional_db: None) -> BackupRecord:
    keys.ensure_keys()
    source = factories.files_source(tmp_path / "source", name="configuration", contents=CONTENTS)
    target = factories.local_target(tmp_path / "a store", name="nearby")
    return factories.run_now(factories.plan_of(target, [source], name="zantara"))


@pytest.fixture
def recovery(tmp_path: Path) -> Path:
    """A desk far away, with nothing but the recovery key."""
    keys.ensure_keys()
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "recovery_key.txt").write_bytes(keys.recovery_key_file().read_bytes())
    return desk
