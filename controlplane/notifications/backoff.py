"""When a failed delivery is tried again. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

#: Seconds after the first, second… failure: soon for a hiccup, then hourly for a day, because an answer that comes
#: late still tells somebody.
DELAYS_SECONDS = (10, 30, 120, 600, 1800, *(3600,) * 23)
MOST_ATTEMPTS = len(DELAYS_SECONDS) + 1
#: Up to a quarter later, so that many deliveries that failed together do not return together.
JITTER = 0.25


def next_attempt_at(attempts: int, now: datetime, fraction: float) -> datetime | None:
    """After ``attempts`` failures (from 1), the next try; None: give up. ``fraction`` is 0–1, the dice."""
    if attempts >= MOST_ATTEMPTS:
        return None
    delay = DELAYS_SECONDS[attempts - 1]
    return now + timedelta(seconds=delay * (1 + JITTER * min(max(fraction, 0.0), 1.0)))
