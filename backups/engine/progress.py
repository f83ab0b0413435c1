"""What a running backup tells about itself, and how it hears that it shall stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from backups.errors import Cancelled, Stalled
from backups.models import BackupRecord
from backups.sources.base import Capture
from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError

from .fence import Fence
from .steps import step_reached

#: The row is written, and a cancellation noticed, this often.
PUBLISH_SECONDS = 1.0
#: While nothing moves the run's own thread cannot write; then the stream's watch does, after this time.
_SILENT_SECONDS = 3.0
#: How long a source may take to begin (some copy what they read), and to end and add up what it saw.
SLOW_SECONDS = 3600.0
_RATE_SECONDS = 10.0


class Progress:
    """The figures of one attempt. Counted on the stream's threads; written, through the lease, on the run's own."""

    def __init__(self, record: BackupRecord, fence: Fence, *, of: int, stall_seconds: float) -> None:
        self._record, self._fence, self._of, self._stall_seconds = record, fence, of, stall_seconds
        self._lock = threading.Lock()
        self._capture: Capture | None = None
        self._opening = False
        self._verdict: ZantaraError | None = None
        self._published = float("-inf")
        self._begin("", 0, None)
        self.done_bytes = 0

    def begin(self, source: str, position: int, expected_bytes: int | None) -> None:
        """A source is about to be read."""
        self._begin(source, position, expected_bytes)
        self.publish()

    def _begin(self, source: str, position: int, expected_bytes: int | None) -> None:
        self._source, self._position, self._expected = source, position, expected_bytes
        self._plain = self._stored = 0
        self._ended = False
        self._moved_at = clock.monotonic()
        self._marks: list[tuple[float, int]] = [(self._moved_at, 0)]

    @contextmanager
    def opening(self, manager: object) -> Iterator[None]:
        """While a source is being opened (some copy what they read) only the heartbeat looks after it."""
        self._capture, self._opening = (manager if isinstance(manager, Capture) else None), True
        try:
            yield
        except Exception:
            if self._verdict is not None:
                raise self._verdict from None
            raise
        finally:
            self._opening, self._capture = False, None

    def beat(self) -> None:
        """On the heartbeat's thread: interrupt an opening that takes for ever, or that nobody wants any more."""
        if not self._opening or self._verdict is not None:
            return
        try:
            self._fence.confirm()
            self._hear()
            self._demand_movement()
        except ZantaraError as verdict:
            self._verdict = verdict
            self.interrupt()

    @contextmanager
    def streaming(self, capture: Capture) -> Iterator[None]:
        """What a stall, a cancellation or a lost lease interrupts, from here on."""
        self._capture, self._moved_at = capture, clock.monotonic()
        try:
            yield
        finally:
            self._capture = None

    def interrupt(self) -> None:
        """From any thread: the producer's whole process group ends."""
        capture = self._capture
        if capture is not None:
            capture.interrupt()

    def chunks(self, capture: Capture) -> Iterator[bytes]:
        """The source's bytes, each noticed as it passes."""
        for number, chunk in enumerate(capture.chunks()):
            self._plain += len(chunk)
            self._moved_at = clock.monotonic()
            yield chunk
            if number == 0:
                step_reached("streaming")
            self._publish_if_due()
        self._ended, self._moved_at = True, clock.monotonic()

    def moved(self, plain_bytes: int, stored_bytes: int) -> None:
        """Called by the stream, on the run's thread, with the sums until now. Raises as ``publish`` does."""
        if stored_bytes != self._stored:
            self._stored, self._moved_at = stored_bytes, clock.monotonic()
        self._publish_if_due()

    def _publish_if_due(self) -> None:
        if clock.monotonic() - self._published >= PUBLISH_SECONDS:
            self.publish()

    def check(self) -> None:
        """Called several times a second, on a thread of the stream, whatever blocks: LeaseLost, Cancelled, Stalled."""
        self._fence.confirm()
        if clock.monotonic() - self._published >= _SILENT_SECONDS:
            self.publish()
        self._demand_movement()

    def publish(self) -> None:
        """Write the figures. LeaseLost; Cancelled if somebody wants the run to stop."""
        with self._lock:
            self._published = clock.monotonic()
            self._fence.lease.guarded_update(progress=self.figures(clock.now()))
        self._hear()

    def _hear(self) -> None:
        row = BackupRecord.objects.filter(pk=self._record.pk)
        by, at = row.values_list("cancel_requested_by", "cancel_requested_at").get()
        if at is not None:
            self._record.cancel_requested_by, self._record.cancel_requested_at = by, at
            raise Cancelled(f"Cancelled{f' by {by}' if by else ''}.")

    def figures(self, now: datetime) -> dict[str, Any]:
        return {
            "source": self._source,
            "position": self._position,
            "of": self._of,
            "plain_bytes": self._plain,
            "stored_bytes": self._stored,
            "expected_bytes": self._expected,
            "total_plain_bytes": self.done_bytes + self._plain,
            "rate_bytes_per_second": self._rate(),
            "updated_at": now.isoformat(),
        }

    def _rate(self) -> int:
        """Over the last seconds: what people want to know is how fast it is now."""
        at = clock.monotonic()
        self._marks.append((at, self._plain))
        while len(self._marks) > 2 and at - self._marks[0][0] > _RATE_SECONDS:
            self._marks.pop(0)
        since, before = self._marks[0]
        return round((self._plain - before) / (at - since)) if at - since > 0.1 else 0

    def _demand_movement(self) -> None:
        allowed = max(self._stall_seconds, SLOW_SECONDS) if self._ended or self._opening else self._stall_seconds
        still = clock.monotonic() - self._moved_at
        if still > allowed:
            raise Stalled(
                f"{self._source} sent nothing for {still:.0f} s and was stopped.",
                remedy="See what holds it up (a lock, a server that hangs), or raise the plan's stall timeout.",
            )
