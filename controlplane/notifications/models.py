"""Channels that an operator sets up, messages that anything may write, and each attempt to deliver one."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from django.core.validators import RegexValidator
from django.db import models
from simple_history.models import HistoricalRecords

from controlplane.kernel import transitions
from controlplane.kernel.encrypted import EncryptedTextField
from controlplane.kernel.errors import Refused
from controlplane.kernel.leases import Leased


class Severity(models.IntegerChoices):
    INFO = 10, "information"
    WARNING = 20, "warning"
    ERROR = 30, "error"


class Channel(models.Model):
    """Where messages go. ``address`` and ``secret`` are credentials: encrypted, and never shown again."""

    class Kind(models.TextChoices):
        WEBHOOK = "webhook", "Webhook (signed JSON)"
        APPRISE = "apprise", "Mail, Slack and others (an Apprise address)"

    name = models.CharField(max_length=63, unique=True, validators=[RegexValidator(r"^\S.*\S$|^\S$")])
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.WEBHOOK)
    address = EncryptedTextField(
        help_text="https://… of a webhook, or an Apprise address: mailto://user:password@mail.example.org, slack://…"
    )
    secret = EncryptedTextField(blank=True, default="", help_text="Signs what a webhook gets (HMAC-SHA256).")
    least_severity = models.PositiveSmallIntegerField(choices=Severity.choices, default=Severity.WARNING)
    kinds = models.JSONField(default=list, blank=True, help_text="Only these kinds of message; none: all of them.")
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    history = HistoricalRecords(excluded_fields=["address", "secret"])

    class Meta:
        ordering = ("name",)
        permissions = (("test_channel", "Can send a test message"),)

    def __str__(self) -> str:
        return self.name

    def wants(self, kind: str, severity: int) -> bool:
        """Whether a message of this kind and severity goes here."""
        return self.active and severity >= self.least_severity and (not self.kinds or kind in self.kinds)


class Message(models.Model):
    """Something that people should hear of, once: ``key`` is what makes it the same message."""

    key = models.CharField(max_length=200, unique=True, editable=False)
    kind = models.CharField(max_length=40, editable=False)
    severity = models.PositiveSmallIntegerField(choices=Severity.choices, editable=False)
    title = models.CharField(max_length=200, editable=False)
    body = models.TextField(editable=False)
    link = models.CharField(max_length=500, blank=True, editable=False)
    created_at = models.DateTimeField(editable=False, db_index=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.title


class Delivery(Leased):
    """One message on its way to one channel."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=20, default="pending", editable=False)
    attempts = models.PositiveSmallIntegerField(default=0, editable=False)
    due_at = models.DateTimeField(editable=False)
    last_error = models.TextField(blank=True, editable=False)
    sent_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-pk",)
        verbose_name_plural = "deliveries"
        default_permissions = ("view",)
        permissions = (("retry_delivery", "Can try a delivery again"),)
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("message", "channel"), name="notifications_one_delivery_per_channel")
        ]
        indexes: ClassVar = [models.Index(fields=("state", "due_at"), name="notifications_due")]

    def __str__(self) -> str:
        return f"{self.message_id} to {self.channel_id}"


class DeliveryEvent(transitions.TransitionEvent):
    subject = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="events")

    class Meta(transitions.TransitionEvent.Meta):
        abstract = False


class DeliveryAttempt(models.Model):
    """The log of deliveries: one row per try, never changed."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="tries")
    at = models.DateTimeField(editable=False)
    delivered = models.BooleanField(editable=False)
    error = models.TextField(blank=True, editable=False)
    seconds = models.FloatField(editable=False)

    objects = transitions.AppendOnlyManager()

    class Meta:
        ordering = ("at", "pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.at:%F %T} {'delivered' if self.delivered else 'failed'}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Refused("A delivery's log is never changed.")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Refused("A delivery's log is never deleted on its own.")
