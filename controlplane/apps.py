from __future__ import annotations

from django.apps import AppConfig


class ControlPlaneConfig(AppConfig):
    """The project package as an app: its commands, checks, probes, schedules and pages."""

    name = "controlplane"
    label = "controlplane"
    verbose_name = "Control plane"

    def ready(self) -> None:
        from controlplane import celery as _celery  # noqa: F401  (makes it the current app for @shared_task)
        from controlplane import work_metrics
        from controlplane.identity import checks as _identity_checks  # noqa: F401  (registers the system checks)
        from controlplane.kernel.checks import register_house_checks
        from controlplane.kernel.ports import after_offline_restore
        from controlplane.monitoring import request_log
        from controlplane.monitoring.health.builtin import register_builtin_probes
        from controlplane.schedules.registration import register as register_schedules
        from controlplane.setup.after_restore import republish_limits

        register_house_checks()
        request_log.connect()
        register_builtin_probes()
        register_schedules()
        work_metrics.register()
        after_offline_restore.add("limits", republish_limits)
