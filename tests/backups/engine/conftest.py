"""The toy kind of source."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backups.sources.base import kinds
from tests.backups.engine import toys


@pytest.fixture
def toy_kind() -> Iterator[None]:
    kinds.add("toy", toys.ToySource)
    yield
    kinds._entries.pop("toy")
