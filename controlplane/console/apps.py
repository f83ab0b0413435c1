"""The admin as this project runs it: our site class, and people in our look."""

from __future__ import annotations

from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AdminConfig):
    """Takes the place of ``django.contrib.admin`` in ``INSTALLED_APPS``."""

    default = False
    default_site = "controlplane.console.base.OpsAdminSite"

    def ready(self) -> None:
        """Register our pages, let each app register its admin, then dress Django's own in our look."""
        from controlplane.console.pages import register_pages

        register_pages()
        super().ready()
        from controlplane.console.pages import people as _people  # noqa: F401  (after Django's own registration)
