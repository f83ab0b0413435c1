"""Restores: what was asked for, which step it is at, and how it ended."""

from __future__ import annotations

from django.db import models

from controlplane.kernel import transitions
from controlplane.kernel.leases import Leased

from .records import BackupRecord


class RestoreRecord(Leased):
    """One restore. The journal (a file outside every restored source) knows more than this row and outlives it."""

    name = models.CharField(max_length=80, unique=True, help_text="zantara-restore-2026-11-23, …-2 for the second.")
    record = models.ForeignKey(BackupRecord, on_delete=models.PROTECT, related_name="restores")
    artifacts = models.JSONField(default=list, help_text="Names of the parts that are restored.")
    options = models.JSONField(default=dict, help_text="stop_services, services, minimum_score…")
    state = models.CharField(max_length=20, default="queued", db_index=True)
    requested_by = models.CharField(max_length=200)
    reason = models.TextField()
    created_at = models.DateTimeField()
    due_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    safety_record = models.ForeignKey(
        BackupRecord, null=True, on_delete=models.PROTECT, related_name="safety_of", help_text="What is gone back to."
    )
    steps = models.JSONField(default=list, help_text="[{step, artifact, status, started_at, finished_at, detail}]")
    error = models.TextField(blank=True)
    score = models.PositiveSmallIntegerField(null=True, help_text="The health score after the start, 0–100.")
    cancel_requested_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name


class RestoreEvent(transitions.TransitionEvent):
    subject = models.ForeignKey(RestoreRecord, on_delete=models.CASCADE, related_name="events")

    class Meta(transitions.TransitionEvent.Meta):
        abstract = False
