from __future__ import annotations

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """Tokens for programs, and what they may do."""

    name = "controlplane.api"
    label = "api"
    verbose_name = "API"

    def ready(self) -> None:
        from controlplane.console.base import add_navigation

        add_navigation("People", "API tokens", "key", "admin:api_apitoken_changelist", "api.view_apitoken")
        add_navigation("Help", "API", "api", "api-v1:openapi-view")
