"""A circuit breaker: after three errors in a row the store is left alone but for one prober at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from controlplane.kernel import clock

State = Literal["closed", "open", "half-open"]

#: Errors in a row that open it.
THRESHOLD = 3
#: Seconds between two probes. Recovery is seen within this after the store is back, so it stays under 1 s.
PROBE_EVERY_SECONDS = 0.5


class Breaker:
    """Thread-safe. Ask ``admits()`` before a call; report it with ``succeeded()`` or ``failed()``.

    When closed it takes no lock: a decision must not queue behind another for bookkeeping.
    """

    def __init__(
        self, monotonic: Callable[[], float] = clock.monotonic, tell: Callable[[State], None] = lambda state: None
    ) -> None:
        """``tell`` hears of each change of the state; it is quick and does not raise."""
        self._monotonic = monotonic
        self._tell = tell
        self._lock = threading.Lock()
        self._errors = 0
        self._open = False
        self._next_probe_at = 0.0
        self._probing = False
        self.last_error = ""

    @property
    def state(self) -> State:
        if not self._open:
            return "closed"
        return "half-open" if self._probing else "open"

    def admits(self) -> bool:
        if not self._open:
            return True
        with self._lock:
            if not self._open:
                return True
            if self._monotonic() < self._next_probe_at:
                return False
            self._probing = True
            # a prober that never reports (its thread was killed) is replaced after one more period
            self._next_probe_at = self._monotonic() + PROBE_EVERY_SECONDS
            self._tell("half-open")
            return True

    def succeeded(self) -> None:
        if self._errors or self._open:
            with self._lock:
                was_open = self._open
                self._errors, self._open, self._probing = 0, False, False
                if was_open:
                    self._tell("closed")

    def failed(self, error: BaseException) -> bool:
        """Note an error; True if this one opened the breaker."""
        with self._lock:
            self.last_error = type(error).__name__
            self._errors += 1
            opened = not self._open and self._errors >= THRESHOLD
            if opened or self._open:
                self._open, self._probing = True, False
                self._next_probe_at = self._monotonic() + PROBE_EVERY_SECONDS
                self._tell("open")
            return opened
