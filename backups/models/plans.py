"""What an operator decides: what is saved, where, when, for how long."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from simple_history.models import HistoricalRecords

from controlplane.kernel.encrypted import EncryptedJSONField, EncryptedTextField
from controlplane.kernel.env import Env

#: A name that is a folder of a set, a label of a metric and a word on a command line.
SLUG = RegexValidator(r"^[a-z0-9][a-z0-9._-]{0,62}$", "Small letters, digits, dots, dashes and underscores only.")


def default_region() -> str:
    """``AWS_BACKUP_REGION``, else ``us-east-1``."""
    return Env().text("AWS_BACKUP_REGION", "us-east-1")


def default_compression() -> bool:
    """``BACKUP_COMPRESSION``: on unless it says no."""
    return Env().flag("BACKUP_COMPRESSION", True)


class StorageTarget(models.Model):
    """Where sets are kept: a directory of this machine, or a bucket of an S3 server."""

    class Kind(models.TextChoices):
        LOCAL = "local", "Local directory"
        S3 = "s3", "S3"

    class Checksums(models.TextChoices):
        WHEN_REQUIRED = "when_required", "when required (works everywhere)"
        WHEN_SUPPORTED = "when_supported", "when supported (AWS)"

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.LOCAL)
    path = models.CharField(
        max_length=500, blank=True, help_text="A directory; relative ones are in the data directory."
    )
    endpoint_url = models.CharField(max_length=500, blank=True, help_text="Empty for AWS.")
    bucket = models.CharField(max_length=255, blank=True)
    prefix = models.CharField(max_length=255, blank=True, help_text="Put before every key; may be empty.")
    region = models.CharField(max_length=63, default=default_region)
    path_style = models.BooleanField(
        default=False, help_text="The bucket in the path, as most S3 servers of one's own want."
    )
    checksum_mode = models.CharField(max_length=20, choices=Checksums.choices, default=Checksums.WHEN_REQUIRED)
    access_key_id = models.CharField(max_length=255, blank=True)
    secret_access_key = EncryptedTextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    history = HistoricalRecords(excluded_fields=["secret_access_key"])

    class Meta:
        ordering = ("name",)
        permissions = (("test_storagetarget", "Can test a storage target"),)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Sets do not follow a bucket's name: looked for elsewhere, each would seem damaged, and be “deleted” there.

        A directory may move: it carries a mark, and without it nothing is believed to be missing.
        """
        where = ("kind", "bucket", "prefix")
        before = StorageTarget.objects.filter(pk=self.pk).values(*where).first() if self.pk else None
        if before is None or all(getattr(self, name) == before[name] for name in where):
            return
        if self.records.exclude(prefix="").exclude(state="deleted").exists():
            raise ValidationError(
                "This target holds sets, so its kind, bucket and prefix stay. Make another target for the new place; "
                "“manage.py backup rebuild-catalogue” finds the sets that were moved there."
            )


class BackupSource(models.Model):
    """One thing that is saved. ``settings`` are those of its kind (``backups.sources``), checked by that kind."""

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    kind = models.CharField(max_length=30)
    settings = models.JSONField(default=dict, blank=True)
    secrets = EncryptedJSONField(default=dict, blank=True)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    history = HistoricalRecords(excluded_fields=["secrets"])

    class Meta:
        ordering = ("name",)
        permissions = (("test_backupsource", "Can test a backup source"),)

    def __str__(self) -> str:
        return self.name


def _count(help_text: str) -> Any:
    return models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(1000)], help_text=help_text)


class BackupPlan(models.Model):
    """Which sources become one restore point, when, where, and how long it is kept.

    The times are rows of beat (``schedule``: runs, ``drill_schedule``: restore drills), edited here or there.
    All retention rules at 0 are refused: a plan that keeps nothing is a mistake.
    """

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    description = models.CharField(max_length=300, blank=True)
    sources = models.ManyToManyField(BackupSource, related_name="plans")
    target = models.ForeignKey(StorageTarget, on_delete=models.PROTECT, related_name="plans")
    enabled = models.BooleanField(default=True)
    schedule = models.OneToOneField(
        "django_celery_beat.PeriodicTask",
        null=True,
        blank=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
    )
    drill_schedule = models.OneToOneField(
        "django_celery_beat.PeriodicTask",
        null=True,
        blank=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
    )
    keep_last = _count("The newest so many, whatever their age.")
    keep_hourly = _count("The newest of each hour, for so many hours that have one.")
    keep_daily = _count("The newest of each day.")
    keep_weekly = _count("The newest of each ISO week.")
    keep_monthly = _count("The newest of each month.")
    keep_yearly = _count("The newest of each year.")
    keep_within_days = models.PositiveSmallIntegerField(
        default=30, validators=[MaxValueValidator(36500)], help_text="Everything younger than so many days."
    )
    compress = models.BooleanField(default=default_compression)
    compression_level = models.SmallIntegerField(default=3, validators=[MinValueValidator(1), MaxValueValidator(19)])
    extra_recipients = models.TextField(
        blank=True, help_text="More age public keys (age1…), one per line, that can open the sets of this plan."
    )
    stall_seconds = models.PositiveIntegerField(
        default=300, validators=[MinValueValidator(10)], help_text="A source that sends nothing for so long is stopped."
    )
    rpo_hours = models.PositiveSmallIntegerField(
        default=26, validators=[MinValueValidator(1)], help_text="Warn when the last committed set is older than this."
    )
    verify_full_days = models.PositiveSmallIntegerField(
        default=30,
        validators=[MinValueValidator(1)],
        help_text="Every stored part is re-read within so many days (L1).",
    )
    drill_after_backup = models.BooleanField(default=False, help_text="Drill each new set as soon as it is committed.")
    created_at = models.DateTimeField(auto_now_add=True)

    history = HistoricalRecords(m2m_fields=[sources])

    #: The retention rules, in the order in which they are explained.
    RULES: ClassVar[tuple[str, ...]] = (
        "keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within_days",
    )  # fmt: skip

    class Meta:
        ordering = ("name",)
        permissions = (("unfreeze_backupplan", "Can let a frozen plan expire sets again"),)

    def __str__(self) -> str:
        return self.name


class PlanState(models.Model):
    """What the system notes about a plan while it runs; never edited, no history."""

    plan = models.OneToOneField(BackupPlan, on_delete=models.CASCADE, related_name="state")
    retention_frozen_at = models.DateTimeField(null=True)
    retention_frozen_reason = models.TextField(blank=True)
    retention_baseline_at = models.DateTimeField(
        null=True, help_text="Sets before this are not compared with: somebody accepted a later one's size."
    )
    missed_noticed_for = models.DateTimeField(null=True, help_text="The missed run that was last spoken of.")

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"state of {self.plan_id}"


class TargetState(models.Model):
    """When a target was last asked, and what it said."""

    target = models.OneToOneField(StorageTarget, on_delete=models.CASCADE, related_name="state")
    checked_at = models.DateTimeField()
    reachable = models.BooleanField()
    message = models.TextField(blank=True)
    free_bytes = models.BigIntegerField(null=True)
    total_bytes = models.BigIntegerField(null=True)
    orphan_sets = models.PositiveIntegerField(default=0, help_text="Committed sets in the store without a record.")
    missing_sets = models.PositiveIntegerField(default=0, help_text="Committed records whose set is not in the store.")
    stale_uploads = models.PositiveIntegerField(default=0)

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"state of {self.target_id}"


class ControlledService(models.Model):
    """A service that a restore may stop and start, by commands that run on this host (never through a shell).

    Only administrators edit these; each line is split like a shell would split it, and run as it is.
    """

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    stop_command = models.CharField(max_length=1000)
    start_command = models.CharField(max_length=1000)
    status_command = models.CharField(max_length=1000, blank=True, help_text="Exit 0: it runs.")
    timeout_seconds = models.PositiveIntegerField(default=60)

    history = HistoricalRecords()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
