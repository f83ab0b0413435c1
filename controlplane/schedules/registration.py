"""What the schedules add to the registries; called from ``ControlPlaneConfig.ready()``."""

from __future__ import annotations

from controlplane.kernel.registry import probes, schedules

from . import (
    checks,  # noqa: F401  (registers the system checks)
    heartbeat,
)


def register() -> None:
    schedules.add(heartbeat.SPEC.name, heartbeat.SPEC)
    probes.add(heartbeat.PROBE.name, heartbeat.PROBE)
