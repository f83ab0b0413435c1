from __future__ import annotations

from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    """How a release reaches its users, and how it is taken back."""

    name = "deployments"
    verbose_name = "Deployments"

    def ready(self) -> None:
        from deployments import registration

        registration.register()
