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

    Of one machine's two clocks the smaller difference counts. Two machines whose clocks differ do not count twice:
    time before the latest tick that was seen is no time.
    """
    last = memory.get(_KEY)
    mark: dict[str, Any] = {"at": now.isoformat(), "boot": boot, "monotonic": monotonic}
    if not isinstance(last, Mapping):
        return 0.0, {**memory, _KEY: mark}
    last_at = datetime.fromisoformat(last["at"])
    passed = (now - last_at).total_seconds()
    if boot and last.get("boot") == boot:
        steady = monotonic - float(last["monotonic"])
        if last_at <= now:
            passed = min(passed, steady)
    if passed <= 0 and last_at - now < _FUTURE:
        return 0.0, dict(memory)
    return max(0.0, min(passed, _MOST)), {**memory, _KEY: mark}
