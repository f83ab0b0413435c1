"""What this app brings to the registries of the ground floor. Called once, when Django starts."""

from __future__ import annotations


def register() -> None:
    """Kinds of targets and steps, probes, schedules, messages, metrics; adding the same again is fine."""
    from controlplane.kernel.registry import probes, schedules
    from controlplane.monitoring import registry as metrics_registry
    from controlplane.notifications.api import kinds as messages

    from . import health, metrics, pipeline, targets, tasks
    from .engine import notices
    from .engine.service_control import register_service_controls

    targets.register_kinds()
    pipeline.register_kinds()
    register_service_controls()
    for kind in notices.KINDS:
        messages.add(kind.name, kind)
    for spec in tasks.SCHEDULES:
        schedules.add(spec.name, spec)
    probes.add(health.PROBE.name, health.PROBE)
    metrics_registry.collectors.add("deployments", metrics.readings)
