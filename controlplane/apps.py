from __future__ import annotations

from django.apps import AppConfig


class ControlPlaneConfig(AppConfig):
    """The project package as an app: its commands, checks, probes, schedules and pages."""

    name = "controlplane"
    label = "controlplane"
    verbose_name = "Control plane"

    def ready(self) -> None:
        from controlplane import celery as _celery  # noqa: F401  (makes it the current app for @shared_task)
