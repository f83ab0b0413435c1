"""A job that several workers want, and its events."""

from __future__ import annotations

from django.db import models

from controlplane.kernel.leases import Leased
from controlplane.kernel.transitions import Machine, TransitionEvent

JOBS = Machine(
    "job",
    {"new": ("running", "cancelled"), "running": ("done", "failed"), "failed": ("new",), "done": (), "cancelled": ()},
    initial="new",
)


class Job(Leased):
    state = models.CharField(max_length=20, default="new")
    worker = models.CharField(max_length=50, blank=True)
    attempts = models.IntegerField(default=0)


class JobEvent(TransitionEvent):
    subject = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
