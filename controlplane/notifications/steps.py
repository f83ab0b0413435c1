"""What the start page asks for, until it is done."""

from __future__ import annotations

from django.urls import reverse

from controlplane.kernel.registry import SetupStep


def _has_channel() -> bool:
    from .models import Channel

    return bool(Channel.objects.filter(active=True).exists())


CHANNEL = SetupStep(
    name="notifications.channel",
    label="Add a channel",
    is_done=_has_channel,
    url=lambda: reverse("admin:notifications_channel_changelist"),
    help="A failed night is told by mail, chat or webhook. Without an active channel nobody hears of it.",
)
