"""How much time is believed to have passed since the last tick. Pure.

A tick that comes late, twice, from another machine or after the clock was set never credits more than two ticks,
and never less than nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from .types import TICK_SECONDS

_MOST = 2 * TICK_SECONDS
#: A last tick so far in the future was noted by a clock that has been set back since.
_FUTURE = timedelta(seconds=60)
_KEY = "tick"


def credit(memory: Mapping[str, Any], now: datetime, boot: str, monotonic: float) -> tuple[float, dict[str, Any]]:
    """Seconds since the tick that ``memory`` knows of, and the memory that knows of this one. 0 for a first tick.

    On one machine its steady clock counts, whatever the wall clock was set to. Of two machines whose clocks differ
    time before the latest tick that was seen is no time, so that they do not count twice.
    """
    last = memory.get(_KEY)
    mark: dict[str, Any] = {"at": now.isoformat(), "boot": boot, "monotonic": monotonic}
    if not isinstance(last, Mapping):
        return 0.0, {**memory, _KEY: mark}
    last_at = datetime.fromisoformat(last["at"])
    if boot and last.get("boot") == boot:
        passed = monotonic - float(last["monotonic"])
        if passed <= 0:
            return 0.0, dict(memory)
    else:
        passed = (now - last_at).total_seconds()
        if passed <= 0 and last_at - now < _FUTURE:
            return 0.0, dict(memory)
    return max(0.0, min(passed, _MOST)), {**memory, _KEY: mark}
