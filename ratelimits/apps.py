from __future__ import annotations

from django.apps import AppConfig


class RateLimitsConfig(AppConfig):
    """Who may call how often: profiles in the admin, published to Redis."""

    name = "ratelimits"
    verbose_name = "Rate limits"

    def ready(self) -> None:
        from ratelimits import checks as _checks  # noqa: F401  (registers the system checks)
