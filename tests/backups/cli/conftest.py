"""The commands as a person or a script calls them, on real rows, a real store and a real engine."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from backups import keys
from backups.models import BackupPlan, BackupSource
from backups.storage.s3_calls import Patience
from tests.backups import factories


@dataclass
class Called:
    """What one call left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that standard output is."""
        return json.loads(self.out)


Call = Callable[..., Called]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """``manage.py`` with these words, in this process."""

    def run(*words: str) -> Called:
        capsys.readouterr()
        out = io.StringIO()
        try:
            call_command(*words, stdout=out)
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        return Called(code, out.getvalue(), capsys.readouterr().err)

    return run


@pytest.fixture
def data_dir(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of this test's own, with keys, and no identity in the environment."""
    folder = tmp_path / "data"
    folder.mkdir()
    settings.ZANTARA_DATA_DIR = folder
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(folder))
    monkeypatch.delenv("ZANTARA_DRILL_IDENTITY_FILE", raising=False)
    keys.ensure_keys()
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away is asked as often as ever, without the waits in between."""
    monkeypatch.setattr(Patience, "wait_seconds", lambda self, failures: 0.0)


@pytest.fixture
def drill_key(data_dir: Path) -> str:
    return str(data_dir / "secrets" / "drill_identity.txt")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The live files that the plan saves."""
    return tmp_path / "source"


@pytest.fixture
def plan(data_dir: Path, tmp_path: Path, tree: Path, transactional_db: None, redis_url: str) -> BackupPlan:
    """One plan: configuration files, a second tree, a local store."""
    config = factories.files_source(tree, contents={"app.env": b"MODE=good\n", "deep/x": b"x" * 5000}, name="config")
    config.settings = {"base": str(tree), "patterns": "**"}
    config.save()
    extra = factories.files_source(tmp_path / "extra", contents={"b.txt": b"b\n"}, name="extra")
    return factories.plan_of(factories.local_target(tmp_path / "store", name="shed"), [config, extra], name="nightly")


@pytest.fixture
def with_warning(plan: BackupPlan) -> BackupSource:
    """One source of the plan names a file that is not there."""
    source = BackupSource.objects.get(name="extra")
    source.settings = {**source.settings, "patterns": "*\nmissing.toml"}
    source.save()
    return source
