"""Climbs of the ladder of proof: what was checked, what was found, how long it took."""

from __future__ import annotations

from django.db import models

from controlplane.kernel import transitions
from controlplane.kernel.leases import Leased

from .records import BackupRecord


class ProofRun(Leased):
    """One check of one restore point, up to ``level``. ``findings``: [{artifact, status, detail}]."""

    class Level(models.IntegerChoices):
        L0 = 0, "L0 present"
        L1 = 1, "L1 hashes"
        L2 = 2, "L2 readable"
        L3 = 3, "L3 restored"

    class Trigger(models.TextChoices):
        SCHEDULE = "schedule", "schedule"
        COMMIT = "commit", "after the backup"
        MANUAL = "manual", "by hand"

    record = models.ForeignKey(BackupRecord, on_delete=models.CASCADE, related_name="proofs")
    level = models.PositiveSmallIntegerField(choices=Level.choices)
    only_artifacts = models.JSONField(default=list, blank=True)
    state = models.CharField(max_length=20, default="queued", db_index=True)
    trigger = models.CharField(max_length=20, choices=Trigger.choices)
    requested_by = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    due_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    attempt = models.PositiveSmallIntegerField(default=0)
    read_bytes = models.BigIntegerField(default=0)
    progress = models.JSONField(default=dict, blank=True)
    findings = models.JSONField(default=list, blank=True)
    error = models.TextField(blank=True)
    cancel_requested_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"L{self.level} of {self.record}"


class ProofEvent(transitions.TransitionEvent):
    subject = models.ForeignKey(ProofRun, on_delete=models.CASCADE, related_name="events")

    class Meta(transitions.TransitionEvent.Meta):
        abstract = False
