"""Restore points and what is in them. Only ``transitions.advance`` and a lease write a record."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from controlplane.kernel import transitions
from controlplane.kernel.leases import Leased

from .plans import BackupPlan, BackupSource, StorageTarget


class BackupRecord(Leased):
    """One restore point: a set of artifacts that belong together. Its row outlives its objects as a tombstone.

    Times are UTC; sizes are bytes. ``set_id`` changes with each attempt, so that a worker which was given up
    for dead writes beside the living one and never into it.
    """

    class Trigger(models.TextChoices):
        SCHEDULE = "schedule", "schedule"
        MISSED = "missed", "missed run, made up for"
        MANUAL = "manual", "by hand"
        SAFETY = "safety", "before a restore"
        DEPLOYMENT = "deployment", "before a deployment"
        FIRST = "first", "first run"
        CATALOGUE = "catalogue", "found in the store"

    name = models.CharField(max_length=80, unique=True, help_text="zantara-backup-2026-11-23, …-2 for the second.")
    plan = models.ForeignKey(BackupPlan, null=True, on_delete=models.SET_NULL, related_name="records")
    plan_name = models.CharField(max_length=63)
    target = models.ForeignKey(StorageTarget, on_delete=models.PROTECT, related_name="records")
    state = models.CharField(max_length=20, default="queued", db_index=True)
    trigger = models.CharField(max_length=20, choices=Trigger.choices)
    requested_by = models.CharField(max_length=200, blank=True)
    reason = models.TextField(blank=True)
    only_sources = models.JSONField(
        default=list, blank=True, help_text="Names, where not all of the plan's are wanted."
    )
    scheduled_for = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(help_text="Not to be started before this; a retry is later.")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    committed_at = models.DateTimeField(null=True, blank=True, db_index=True)
    attempt = models.PositiveSmallIntegerField(default=0)
    set_id = models.UUIDField(null=True, blank=True)
    prefix = models.CharField(max_length=300, blank=True, help_text="Where in the target its objects are.")
    manifest_sha256 = models.CharField(max_length=64, blank=True)

    plain_bytes = models.BigIntegerField(default=0)
    compressed_bytes = models.BigIntegerField(default=0)
    stored_bytes = models.BigIntegerField(default=0)
    progress = models.JSONField(default=dict, blank=True, help_text="Of the running attempt: source, bytes, rate.")
    warnings = models.JSONField(default=list, blank=True)
    error = models.TextField(blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.CharField(max_length=200, blank=True)

    pinned_at = models.DateTimeField(null=True, blank=True)
    pinned_by = models.CharField(max_length=200, blank=True)
    pin_reason = models.TextField(blank=True)
    keep_reasons = models.JSONField(default=list, blank=True, help_text="Why retention keeps it, as last judged.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="When a marked set is deleted; undo until then.")
    delete_attempts = models.PositiveSmallIntegerField(default=0)
    delete_error = models.TextField(blank=True)
    freed_bytes = models.BigIntegerField(default=0)

    class Meta:
        ordering = ("-created_at", "-pk")
        default_permissions = ("view",)
        permissions = (
            ("run_backup", "Can run a backup now"),
            ("cancel_backup", "Can cancel a running backup"),
            ("verify_backup", "Can verify a backup"),
            ("drill_backup", "Can run a restore drill"),
            ("restore_backup", "Can restore a backup"),
            ("pin_backup", "Can pin a backup and undo its expiry"),
            ("delete_backup", "Can delete a backup"),
            ("download_recovery_kit", "Can download the recovery kit"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("plan", "scheduled_for"),
                condition=Q(scheduled_for__isnull=False),
                name="backups_one_run_per_scheduled_time",
            ),
        )
        indexes = (models.Index(fields=("plan", "-committed_at"), name="backups_by_plan"),)

    def __str__(self) -> str:
        return self.name


class Artifact(models.Model):
    """One source in a restore point. ``expectations`` is where and how large the encrypted list is; ``summary``
    what people read of it (rows, files, vectors). ``parts``: [{name, size, sha256}].
    """

    record = models.ForeignKey(BackupRecord, on_delete=models.CASCADE, related_name="artifacts")
    source = models.ForeignKey(BackupSource, null=True, on_delete=models.SET_NULL, related_name="artifacts")
    name = models.CharField(max_length=63)
    kind = models.CharField(max_length=30)
    position = models.PositiveSmallIntegerField(default=0)
    settings = models.JSONField(default=dict, help_text="The source's settings as they were; no secrets.")
    captured_from_at = models.DateTimeField(null=True)
    captured_to_at = models.DateTimeField(null=True)
    plain_bytes = models.BigIntegerField(default=0)
    compressed_bytes = models.BigIntegerField(default=0)
    stored_bytes = models.BigIntegerField(default=0)
    plain_sha256 = models.CharField(max_length=64, blank=True)
    stored_sha256 = models.CharField(max_length=64, blank=True)
    compressed = models.BooleanField(default=True)
    parts = models.JSONField(default=list)
    tools = models.JSONField(default=dict, help_text="Programs and their versions.")
    summary = models.JSONField(default=dict)
    expectations = models.JSONField(default=dict, help_text="{object, size, sha256} of the encrypted expectations.")
    warnings = models.JSONField(default=list)

    l0_at = models.DateTimeField(null=True)
    l1_at = models.DateTimeField(null=True, help_text="When every part had been re-hashed, the oldest of them.")
    l2_at = models.DateTimeField(null=True)
    l3_at = models.DateTimeField(null=True)
    coverage = models.JSONField(default=dict, help_text="Part name -> when it was last re-hashed.")
    damaged_at = models.DateTimeField(null=True)
    damage = models.TextField(blank=True)
    restore_seconds = models.FloatField(null=True, help_text="How long the last drill took to restore it.")

    class Meta:
        ordering = ("record_id", "position")
        default_permissions = ("view",)
        constraints = (models.UniqueConstraint(fields=("record", "name"), name="backups_one_artifact_per_name"),)

    def __str__(self) -> str:
        return f"{self.record_id}/{self.name}"

    @property
    def proof_level(self) -> int | None:
        """The highest level that holds: 0–3; None where nothing was proven or damage was found since."""
        if self.damaged_at is not None:
            return None
        levels = (self.l0_at, self.l1_at, self.l2_at, self.l3_at)
        return max((level for level, at in enumerate(levels) if at is not None), default=None)


class BackupEvent(transitions.TransitionEvent):
    """What happened to a restore point: its moves, and acts that move nothing (from and to are then one state)."""

    subject = models.ForeignKey(BackupRecord, on_delete=models.CASCADE, related_name="events")

    class Meta(transitions.TransitionEvent.Meta):
        abstract = False
