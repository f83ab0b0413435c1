"""The one place that asks what time it is.

Decisions take ``now`` as an argument; edges get it here, so that a test can move it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """The wall clock, aware, in UTC: for what is stored or shown."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds that never go back: for durations and deadlines within one process."""
    return time.monotonic()
