from __future__ import annotations

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    """Channels, an outbox, and a log of deliveries."""

    name = "controlplane.notifications"
    label = "notifications"
    verbose_name = "Notifications"

    def ready(self) -> None:
        from controlplane.console.base import add_navigation
        from controlplane.kernel.registry import probes, schedules, setup_steps
        from controlplane.notifications import probe, tasks
        from controlplane.notifications.steps import CHANNEL

        for spec in (tasks.SCHEDULE, tasks.FORGET):
            schedules.add(spec.name, spec)
        probes.add(probe.PROBE.name, probe.PROBE)
        setup_steps.add(CHANNEL.name, CHANNEL)
        group = "Notifications"
        add_navigation(
            group, "Channels", "campaign", "admin:notifications_channel_changelist", "notifications.view_channel"
        )
        add_navigation(
            group, "Messages", "outbox", "admin:notifications_message_changelist", "notifications.view_message"
        )
