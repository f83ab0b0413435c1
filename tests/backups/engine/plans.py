"""Plans of a folder and of toy sources, and how a run of them ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from backups import keys
from backups.engine.capture import scratch_root
from backups.models import Artifact, BackupPlan, BackupRecord
from tests.backups import factories
from tests.backups.engine import seeing


def toy_plan(tmp_path: Path, *toy_settings: Mapping[str, Any], **columns: Any) -> BackupPlan:
    keys.ensure_keys()
    sources = [
        factories.files_source(tmp_path / "source", name="good"),
        *(
            factories.BackupSource.objects.create(name=f"toy-{number}", kind="toy", settings=dict(settings))
            for number, settings in enumerate(toy_settings)
        ),
    ]
    return factories.plan_of(factories.local_target(tmp_path / "store"), sources, **columns)


def ended(record: BackupRecord) -> tuple[str, str]:
    record.refresh_from_db()
    assert (record.lease_owner, record.lease_expires_at) == ("", None), "nobody may have to unlock it"
    return record.state, record.error


class looking(AbstractContextManager[None]):
    """Calls something ten times a second, on a thread of its own, while the block runs."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look, self._over = look, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        from django.db import connection

        while not self._over.wait(0.1):
            self._look()
        connection.close()


def assert_it_left_nothing(record: BackupRecord) -> None:
    assert seeing.left_over(record.target) == []
    assert record.set_id is not None
    assert not (scratch_root() / str(record.set_id)).exists()
    assert not Artifact.objects.filter(record=record).exists()
    assert record.prefix == ""
