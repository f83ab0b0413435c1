from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backups.storage.local import LocalStorage

from .tools import Key, new_key, stream_threads


@pytest.fixture
def store(tmp_path: Path) -> LocalStorage:
    root = tmp_path / "store"
    root.mkdir()
    return LocalStorage(root)


@pytest.fixture(scope="session")
def key() -> Key:
    return new_key()


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert stream_threads() == []
