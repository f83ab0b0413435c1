from __future__ import annotations

from django.apps import AppConfig


class BackupsConfig(AppConfig):
    """What is saved, where, for how long, and the proof that it restores."""

    name = "backups"
    verbose_name = "Backups"

    def ready(self) -> None:
        from backups import registration

        registration.register()
