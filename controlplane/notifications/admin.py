"""Channels to edit and test; messages and their deliveries to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, Max, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from controlplane.console.base import (
    Dialog,
    HistoryModelAdmin,
    OpsModelAdmin,
    OpsTabularInline,
    Tone,
    action,
    badge,
    display,
    since,
)
from controlplane.kernel.errors import Refused

from . import delivering
from .api import kinds
from .forms import ChannelForm
from .models import Channel, Delivery, Message, Severity

_SEVERITY: dict[int, tuple[Tone, str]] = {
    Severity.INFO: ("info", "info"),
    Severity.WARNING: ("warn", "warning"),
    Severity.ERROR: ("bad", "error"),
}
_STATE: dict[str, tuple[str, Tone, str]] = {
    "pending": ("on its way", "info", "schedule"),
    "sent": ("delivered", "ok", "check_circle"),
    "given_up": ("given up", "bad", "cancel"),
}


@admin.register(Channel)
class ChannelAdmin(HistoryModelAdmin[Channel]):
    """One row per address."""

    form = ChannelForm
    list_display = ("name", "kind", "what", "last_delivery", "active")
    list_filter = ("kind", "active")
    search_fields = ("name",)
    actions_row = ("send_test",)
    actions_detail = ("send_test",)
    empty_state = (
        "No channels: nobody is told when a backup fails. Add a webhook, a mail address or a chat, then press Test."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Channel]:
        return (
            super()
            .get_queryset(request)
            .annotate(
                last_sent_at=Max("deliveries__sent_at"),
                given_up=Count("deliveries", filter=Q(deliveries__state="given_up")),
                failing=Count("deliveries", filter=Q(deliveries__state="pending", deliveries__attempts__gt=0)),
            )
        )

    @display(description="Gets")
    def what(self, channel: Channel) -> str:
        names = [kinds.get(name).label if name in kinds else name for name in channel.kinds]
        least = Severity(channel.least_severity).label
        return f"{', '.join(names) or 'everything'}, from {least} on"

    @display(description="Last delivery", ordering="last_sent_at")
    def last_delivery(self, channel: Any) -> SafeString:
        if channel.failing:
            return badge(f"{channel.failing} failing", "warn", "warning")
        if channel.last_sent_at is None:
            return badge("never used", "muted", "help") if not channel.given_up else _badge_of("given_up")
        return format_html("{} {}", _badge_of("sent"), since(channel.last_sent_at))

    def has_test_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("notifications.test_channel")

    @action(
        permission="test",
        description="Test",
        icon="send",
        dialog=Dialog(
            title="Send a test message",
            description="It goes out now, past the outbox, and says who sent it.",
            submit="Send",
        ),
    )
    def send_test(self, request: HttpRequest, form: Any, object_id: Any) -> HttpResponse | None:
        channel = self.get_object(request, str(object_id))
        if channel is None:
            raise Refused("This channel is gone.")
        delivering.send_test(channel, actor=request.user.get_username())
        messages.success(request, f"{channel.name} took the test message.")
        return None


class DeliveryInline(OpsTabularInline[Delivery, Message]):
    model = Delivery
    fields = readonly_fields = ("channel", "shown_state", "attempts", "due_at", "sent_at", "log")
    can_delete = False
    max_num = 0

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return super().get_queryset(request).select_related("channel").prefetch_related("tries")

    @display(description="State")
    def shown_state(self, delivery: Delivery) -> SafeString:
        return _badge_of(delivery.state)

    @display(description="Log")
    def log(self, delivery: Delivery) -> SafeString:
        return format_html_join(
            mark_safe("<br>"),
            "{:%d %b %H:%M:%S} {} ({} ms)",
            (
                (each.at, "delivered" if each.delivered else each.error, round(each.seconds * 1000))
                for each in delivery.tries.all()
            ),
        )


class ReadOnly:
    """View-only: rows that the system writes."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Message)
class MessageAdmin(ReadOnly, OpsModelAdmin[Message]):
    """The outbox: what was said, and whether it arrived."""

    list_display = ("title", "shown_severity", "shown_kind", "written", "delivered")
    list_filter = ("severity", "kind", "created_at")
    search_fields = ("title", "body", "key")
    fields = readonly_fields = ("title", "shown_severity", "shown_kind", "body", "shown_link", "written", "key")
    inlines = (DeliveryInline,)
    actions_row = ("retry",)
    actions_detail = ("retry",)
    empty_state = "No messages yet: nothing has gone wrong that somebody should hear of."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        return super().get_queryset(request).prefetch_related("deliveries")

    @display(description="Severity", ordering="severity")
    def shown_severity(self, message: Message) -> SafeString:
        tone, icon = _SEVERITY[message.severity]
        return badge(Severity(message.severity).label, tone, icon)

    @display(description="Kind", ordering="kind")
    def shown_kind(self, message: Message) -> str:
        return kinds.get(message.kind).label if message.kind in kinds else message.kind

    @display(description="Written", ordering="created_at")
    def written(self, message: Message) -> SafeString:
        return since(message.created_at)

    @display(description="Link")
    def shown_link(self, message: Message) -> SafeString | str:
        return format_html('<a href="{0}">{0}</a>', message.link) if message.link.startswith("/") else message.link

    @display(description="Delivered")
    def delivered(self, message: Message) -> SafeString:
        states = [delivery.state for delivery in message.deliveries.all()]
        if not states:
            return badge("no channel wanted it", "warn", "notifications_off")
        worst = next(state for state in ("given_up", "pending", "sent") if state in states)
        return format_html("{} {} of {}", _badge_of(worst), states.count("sent"), len(states))

    def has_retry_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("notifications.retry_delivery")

    @action(
        permission="retry",
        description="Try again",
        icon="refresh",
        dialog=Dialog(
            title="Try again",
            description="Deliveries of this message that were given up begin anew.",
            submit="Try again",
        ),
    )
    def retry(self, request: HttpRequest, form: Any, object_id: Any) -> HttpResponse | None:
        given_up = list(Delivery.objects.filter(message_id=object_id, state="given_up"))
        if not given_up:
            raise Refused("No delivery of this message was given up.")
        for delivery in given_up:
            delivering.retry(delivery, actor=request.user.get_username())
        messages.success(request, f"{len(given_up)} {_is_or_are(len(given_up))} on the way again.")
        return None


def _is_or_are(count: int) -> str:
    return "delivery is" if count == 1 else "deliveries are"


def _badge_of(state: str) -> SafeString:
    words, tone, icon = _STATE[state]
    return badge(words, tone, icon)
