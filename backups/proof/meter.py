"""What a running proof tells about itself, and how it hears that it shall stop."""

from __future__ import annotations

import threading
from typing import Any

from backups.engine.fence import Fence
from backups.errors import Cancelled
from backups.models import ProofRun
from controlplane.kernel import clock

from .steps import step_reached

PUBLISH_SECONDS = 1.0


class Meter:
    """Counts what is read. Rows are written on the thread that made it; a kind may read on another one."""

    def __init__(self, proof: ProofRun, fence: Fence) -> None:
        self._proof, self._fence = proof, fence
        self._thread = threading.get_ident()
        self._published = float("-inf")
        self._cancelled = False
        self.total_bytes = 0
        self._begin("", 0, 0, 0)

    def begin(self, artifact: str, position: int, of: int, expected_bytes: int) -> None:
        """An artifact is about to be climbed."""
        self._begin(artifact, position, of, expected_bytes)
        self._publish()

    def _begin(self, artifact: str, position: int, of: int, expected_bytes: int) -> None:
        self._artifact, self._position, self._of, self._expected = artifact, position, of, expected_bytes
        self._bytes, self._began = 0, clock.monotonic()

    def read(self, size: int) -> None:
        """So many bytes were read. LeaseLost where the proof is another's now, Cancelled where it shall stop."""
        self._fence.confirm()
        if size and not self._bytes:
            step_reached("proof_reading")
        self._bytes += size
        self.total_bytes += size
        if threading.get_ident() == self._thread and clock.monotonic() - self._published >= PUBLISH_SECONDS:
            self._publish()
        if self._cancelled:
            raise Cancelled("Cancelled.")

    def _publish(self) -> None:
        self._published = clock.monotonic()
        self._fence.lease.guarded_update(progress=self._figures(), read_bytes=self.total_bytes)
        rows = ProofRun.objects.filter(pk=self._proof.pk)
        self._cancelled = rows.values_list("cancel_requested_at", flat=True).get() is not None

    def _figures(self) -> dict[str, Any]:
        seconds = clock.monotonic() - self._began
        return {
            "artifact": self._artifact,
            "position": self._position,
            "of": self._of,
            "plain_bytes": self._bytes,
            "expected_bytes": self._expected or None,
            "rate_bytes_per_second": round(self._bytes / seconds) if seconds > 0.1 else 0,
            "updated_at": clock.now().isoformat(),
        }
