from __future__ import annotations

from pathlib import Path

import pytest

from tests.backups.factories import committed_set

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_run(tmp_path: Path) -> None:
    record = committed_set(tmp_path)
    print(record.__dict__, [p for p in (tmp_path / "store").rglob("*")])
