"""The sample service of the whole run, on this worker's Redis, which each test finds empty."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zantara.conftest import Running, serving


@pytest.fixture(scope="session")
def _sample_service() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="zt-sample-") as folder, serving(Path(folder), workers=1) as running:
        yield running


@pytest.fixture
def sample_service(redis_url: str, _sample_service: Running) -> Running:
    return _sample_service
