"""The stores that the contract is held against: a directory and two S3 servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from backups.storage.base import Storage
from backups.storage.local import LocalStorage


@pytest.fixture(params=["local", "rclone", "moto"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store of each kind."""
    if request.param == "local":
        root = tmp_path / "store"
        root.mkdir()
        return LocalStorage(root)
    server = request.getfixturevalue(f"{request.param}_server")
    return server.storage(server.make_bucket(), prefix="some/where", page_size=10)
