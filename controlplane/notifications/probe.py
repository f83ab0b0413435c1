"""Whether anybody would hear of it: no channel, or messages that were given up, is a warning."""

from __future__ import annotations

from datetime import timedelta

from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult

#: How long a message that reached nobody is spoken of.
RECENT = timedelta(days=1)


def _look() -> ProbeResult:
    from .models import Channel, Delivery

    if not Channel.objects.filter(active=True).exists():
        return ProbeResult("warn", "no channel: nobody is told when a night fails", "Add one under Channels.")
    now = clock.now()
    lost = Delivery.objects.filter(state="given_up", message__created_at__gte=now - RECENT).count()
    if lost:
        return ProbeResult("warn", f"{lost} deliveries given up within a day", "See Messages for why.", lost)
    late = Delivery.objects.filter(state="pending", attempts__gte=3).count()
    if late:
        return ProbeResult("warn", f"{late} deliveries failed three times and more", "See Messages for why.", late)
    return ProbeResult("pass", "messages are delivered")


PROBE = Probe(name="notifications", label="Notifications", run=_look, docs="docs/notifications.md")
