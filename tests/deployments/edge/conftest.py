"""One Envoy for each test that asks for one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deployments.edge.kit import World


@pytest.fixture
def world(free_port: Callable[[], int]) -> Iterator[World]:
    """A running Envoy that has been told nothing yet."""
    with tempfile.TemporaryDirectory(prefix="zt-edge-") as folder:  # short: a socket's path has 107 bytes
        world = World(Path(folder), free_port)
        try:
            world.start()
            yield world
        finally:
            world.close()
