"""What the limiter answers: plain data, made once per request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ratelimits.decision import Policy

#: store   counted in Redis            local   counted in this process, for its share
#: open    let through uncounted       closed  refused because the store is away
#: none    no policy limits this caller
Source = Literal["store", "local", "open", "closed", "none"]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for what: a role, a subject ("" if anonymous), an address bucket, a path."""

    role: str
    subject: str
    address: str
    path: str


@dataclass(slots=True)  # not frozen: one is made per request, and freezing takes three times as long
class Window:
    """One window of a policy after the decision. ``number`` 0 is the limit itself, 1 its burst pair.

    ``reset_us`` microseconds until more becomes available, ``wait_us`` until this request would fit (0: it did).
    """

    policy: Policy
    number: int
    limit: int
    seconds: int
    used: int = 0
    reset_us: int = 0
    wait_us: int = 0

    @property
    def name(self) -> str:
        return self.policy.name if self.number == 0 else f"{self.policy.name}-burst"

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(slots=True)  # not frozen, like its windows
class Decision:
    """``windows`` are the enforced ones; ``would_deny`` names shadow policies that would have denied."""

    allowed: bool
    source: Source
    version: int
    asker: Asker
    policy: Policy | None = None
    windows: tuple[Window, ...] = ()
    would_deny: tuple[str, ...] = ()
    caller: bytes = b""

    @property
    def violated(self) -> tuple[Window, ...]:
        return tuple(window for window in self.windows if window.wait_us)

    @property
    def retry_after_seconds(self) -> int:
        """Whole seconds after which this request fits, if nobody else uses the bucket: rounded up, never early."""
        if self.source == "closed":
            return 1
        return -(-max((window.wait_us for window in self.windows), default=0) // 1_000_000)
