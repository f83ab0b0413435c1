from __future__ import annotations

from django.apps import AppConfig


class SamplesConfig(AppConfig):
    """Samples of every service, taken by one task."""

    name = "controlplane.samples"
    label = "samples"
    verbose_name = "Samples"

    def ready(self) -> None:
        from controlplane.kernel.registry import probes, schedules
        from controlplane.samples import checks as _checks  # noqa: F401  (registers the system check)
        from controlplane.samples import probe, tasks

        schedules.add(tasks.SCHEDULE.name, tasks.SCHEDULE)
        probes.add(probe.PROBE.name, probe.PROBE)
