"""Where a fault test may kill this process: every step of a backup, a proof and a restore calls ``step_reached``."""

from __future__ import annotations

from controlplane.kernel.killpoints import step_reached

__all__ = ["step_reached"]
