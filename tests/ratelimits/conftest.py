from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _patient_limiter(settings: Any) -> None:
    """A busy machine must not look like a store that is away. The change also makes this process's limiter anew."""
    settings.ZANTARA_LIMITS_TIMEOUT_SECONDS = 20.0
