from __future__ import annotations

from django.apps import AppConfig


class GuardConfig(AppConfig):
    """System checks and health probes for a service that is limited but not administered here.

    It has no models: the service's database never hears of us.
    """

    name = "ratelimits.guard"
    label = "ratelimits_guard"
    verbose_name = "Rate limits (guarded service)"

    def ready(self) -> None:
        from controlplane.identity import checks as _identity_checks  # noqa: F401  (registers the system checks)
        from controlplane.monitoring.health.builtin import register_builtin_probes
        from ratelimits import checks as _checks  # noqa: F401  (registers the system checks)
        from ratelimits import proxy_watch

        register_builtin_probes()
        proxy_watch.connect()
