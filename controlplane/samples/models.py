"""One table: a row per service and 15 s, kept 48 h, and a row per service and 5 minutes, kept 90 days."""

from __future__ import annotations

from typing import ClassVar

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from .figures import Busy


class Compact(DjangoJSONEncoder):
    """JSON without the spaces that nobody reads."""

    item_separator = ","
    key_separator = ":"


class Sample(models.Model):
    """What one service did in one span of time that begins at ``at``.

    Null means that nothing is known or that there was nothing to measure: a chart has a gap there, never a
    zero. Rates are per second over ``seconds``, shares 0–1. Gauges of a 5-minute row are the highest seen.
    """

    class Resolution(models.IntegerChoices):
        FINE = 15, "15 seconds"
        COARSE = 300, "5 minutes"

    service = models.CharField(max_length=64)
    resolution = models.PositiveSmallIntegerField(choices=Resolution.choices)
    at = models.DateTimeField()
    up = models.BooleanField(help_text="Whether the service answered, at least once.")
    samples = models.PositiveSmallIntegerField(default=1, help_text="How often it was asked.")
    samples_up = models.PositiveSmallIntegerField(default=0, help_text="How often it answered.")
    seconds = models.FloatField(null=True, help_text="The time that the rates are over; none at the first scrape.")

    requests = models.FloatField(null=True)
    requests_per_second = models.FloatField(null=True)
    error_share = models.FloatField(null=True)
    p50_seconds = models.FloatField(null=True)
    p95_seconds = models.FloatField(null=True)
    sheds_per_second = models.FloatField(null=True)
    denied_per_second = models.FloatField(null=True)
    jwt_per_second = models.FloatField(null=True)
    jwt_errors_per_second = models.FloatField(null=True)
    vector_per_second = models.FloatField(null=True)
    vector_errors_per_second = models.FloatField(null=True)

    in_flight = models.FloatField(null=True)
    connections = models.FloatField(null=True)
    memory_percent = models.FloatField(null=True)

    roles = models.JSONField(default=dict, encoder=Compact, help_text="Requests per second by role.")
    routes = models.JSONField(
        default=list, encoder=Compact, help_text="[route, requests, share of errors, p95] of the ten busiest."
    )
    handlers = models.JSONField(default=list, encoder=Compact, help_text="The same of the ten busiest handlers.")
    buckets = models.JSONField(
        default=list, encoder=Compact, help_text="[bound, observations up to it]; the last bound is null."
    )

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["service", "resolution", "at"], name="samples_one_per_service_and_time")
        ]
        indexes: ClassVar = [models.Index(fields=["resolution", "at"], name="samples_by_age")]
        # Written by a task and read by pages: nobody edits a measurement.
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.service} at {self.at:%Y-%m-%d %H:%M:%S} ({self.get_resolution_display()})"

    def busiest_routes(self) -> tuple[Busy, ...]:
        return tuple(Busy(*entry) for entry in self.routes)

    def busiest_handlers(self) -> tuple[Busy, ...]:
        return tuple(Busy(*entry) for entry in self.handlers)
