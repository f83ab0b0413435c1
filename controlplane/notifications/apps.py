from __future__ import annotations

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    """Channels, an outbox, and a log of deliveries."""

    name = "controlplane.notifications"
    label = "notifications"
    verbose_name = "Notifications"
