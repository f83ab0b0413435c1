from __future__ import annotations

from django.apps import AppConfig


class RateLimitsConfig(AppConfig):
    """Who may call how often: profiles in the admin, published to Redis."""

    name = "ratelimits"
    verbose_name = "Rate limits"

    def ready(self) -> None:
        from controlplane.identity.roles import set_role_source
        from controlplane.kernel.registry import cards, probes, schedules, setup_steps
        from ratelimits import checks as _checks  # noqa: F401  (registers the system checks)
        from ratelimits import proxy_watch, tasks
        from ratelimits.cards import CARD, STEPS
        from ratelimits.role_source import role_source

        set_role_source(role_source)
        proxy_watch.connect()
        probes.add(proxy_watch.PROBE.name, proxy_watch.PROBE)
        schedules.add(tasks.SCHEDULE.name, tasks.SCHEDULE)
        cards.add(CARD.name, CARD)
        for step in STEPS:
            setup_steps.add(step.name, step)
