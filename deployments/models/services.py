"""What an operator decides: which services there are, what their releases are, and how one reaches its users."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from simple_history.models import HistoricalRecords

from controlplane.kernel.encrypted import EncryptedJSONField
from controlplane.kernel.env import Env
from controlplane.kernel.errors import Refused
from controlplane.kernel.leases import Leased
from deployments.stages import AT_ONCE, FULL, Stage

#: A name that is part of a container's name, an Envoy cluster and a word on a command line.
SLUG = RegexValidator(r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", "Small letters, digits and dashes, at most 40.")
VERSION = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$", "Letters, digits, dots, dashes, _ and +; at most 64.")
ROUTE = RegexValidator(r"^/[^\s?#]*$", "A path that begins with a slash.")


def default_region() -> str:
    """``DEPLOYMENT_REGION``, else ``us-east-1``."""
    return Env().text("DEPLOYMENT_REGION", "us-east-1")


def _at_least(least: int, most: int | None = None) -> list[Any]:
    return [MinValueValidator(least), *([MaxValueValidator(most)] if most is not None else [])]


class Service(models.Model):
    """A thing that is deployed: where its instances run, how many, behind which route, and how careful to be.

    ``target_settings`` are those of the target's kind (``deployments.targets``), checked by that kind.
    """

    class Inconclusive(models.TextChoices):
        HOLD = "hold", "hold, and ask a person"
        ABORT = "abort", "roll back"
        PROMOTE = "promote", "go on"

    class Busy(models.TextChoices):
        WAIT = "wait", "wait for it"
        REFUSE = "refuse", "refuse"

    name = models.CharField(max_length=40, unique=True, validators=[SLUG])
    description = models.CharField(max_length=300, blank=True)
    enabled = models.BooleanField(default=True, help_text="Off: its instances are left as they are.")
    environment = models.CharField(max_length=40, default="production")
    region = models.CharField(max_length=63, default=default_region)

    target_kind = models.CharField(max_length=20, default="process")
    target_settings = models.JSONField(default=dict, blank=True)
    instances = models.PositiveSmallIntegerField(default=1, validators=_at_least(0, 100))
    max_surge = models.PositiveSmallIntegerField(
        default=0, validators=_at_least(0, 100), help_text="Most instances above that; 0: as many as a stage needs."
    )
    environ = models.JSONField(default=dict, blank=True, help_text="Variables of every instance.")
    secret_environ = EncryptedJSONField(default=dict, blank=True)

    edge_port = models.PositiveIntegerField(
        null=True, blank=True, validators=_at_least(1, 65535), help_text="Where the edge listens; none: no edge."
    )
    route_prefix = models.CharField(max_length=200, default="/", validators=[ROUTE])
    route_hosts = models.JSONField(default=list, blank=True, help_text="Host names; none: all.")
    sticky = models.BooleanField(default=True, help_text="A caller stays with the release that answered him.")
    health_path = models.CharField(max_length=200, default="/readyz", validators=[ROUTE])
    document_path = models.CharField(
        max_length=200, blank=True, default="/health", help_text="The health document; empty: it has none."
    )
    health_map = models.JSONField(
        default=dict,
        blank=True,
        help_text="Component of the score -> name in the document's services, e.g. {“database”: “redis”}.",
    )

    gradual_rollout = models.BooleanField(default=True, help_text="Off: all traffic at once.")
    rollback_enabled = models.BooleanField(default=True, help_text="Off: a bad release is held, not taken back.")
    health_check_timeout_seconds = models.PositiveIntegerField(
        default=300, validators=_at_least(1), help_text="Within so long a stage's health must have been enough."
    )
    min_health_score = models.PositiveSmallIntegerField(default=80, validators=_at_least(0, 100))
    min_ready_seconds = models.PositiveSmallIntegerField(
        default=2, help_text="An instance counts once it was ready for so long."
    )
    readiness_deadline_seconds = models.PositiveIntegerField(default=120, validators=_at_least(1))
    drain_timeout_seconds = models.PositiveIntegerField(default=30)
    inconclusive_policy = models.CharField(
        max_length=10, choices=Inconclusive.choices, default=Inconclusive.HOLD, help_text="When data stays too few."
    )
    inconclusive_extensions = models.PositiveSmallIntegerField(
        default=3, help_text="So often a stage is watched once more before that."
    )
    slow_request_ms = models.PositiveIntegerField(
        default=1000, validators=_at_least(1), help_text="A request above this is slow, for the judge."
    )
    error_budget = models.PositiveIntegerField(
        default=100, validators=_at_least(1), help_text="So many more errors than the old release's rate explains: out."
    )
    busy_policy = models.CharField(
        max_length=10, choices=Busy.choices, default=Busy.WAIT, help_text="For a second deployment."
    )
    backup_plan = models.ForeignKey(
        "backups.BackupPlan",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Taken before each deployment.",
    )
    backup_level = models.PositiveSmallIntegerField(
        default=0, validators=_at_least(0, 3), help_text="So far that backup must be proven: 0 to 3."
    )
    keep_releases = models.PositiveSmallIntegerField(default=5, validators=_at_least(2, 100))
    created_at = models.DateTimeField(auto_now_add=True)

    history = HistoricalRecords(excluded_fields=["secret_environ"])

    class Meta:
        ordering = ("name",)
        permissions = (("stop_line", "Can stop the line, and let it run again"),)

    def __str__(self) -> str:
        return self.name

    def stage_plan(self) -> tuple[Stage, ...]:
        """The stages that a deployment begun now would follow."""
        if not self.gradual_rollout:
            return AT_ONCE
        return tuple(stage.as_stage() for stage in self.stages.all())


class DeploymentStage(models.Model):
    """One stage of a service's plan: a share of the traffic, and how long it is watched."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="stages")
    percentage = models.DecimalField(
        max_digits=4,
        decimal_places=1,
        validators=[MinValueValidator(Decimal("0.1")), MaxValueValidator(Decimal(100))],
        help_text="Of the service's requests.",
    )
    bake_seconds = models.PositiveIntegerField(default=300)

    history = HistoricalRecords()

    class Meta:
        ordering = ("service_id", "percentage")
        default_permissions: ClassVar[tuple[str, ...]] = ("add", "change", "delete", "view")
        constraints = (models.UniqueConstraint(fields=("service", "percentage"), name="deployments_one_stage_a_share"),)

    def __str__(self) -> str:
        return f"{self.percentage:g} %"

    def as_stage(self) -> Stage:
        return Stage(int(self.percentage * FULL / 100), self.bake_seconds)


class PipelineStep(models.Model):
    """A command that is run on this host for each release. Only administrators edit it; no shell ever sees it."""

    class Phase(models.TextChoices):
        CHECK = "check", "check, before the build"
        BUILD = "build", "build"
        VALIDATE = "validate", "validate, at 100 %"

    class Unknown(models.TextChoices):
        BLOCK = "block", "stops the deployment"
        WARN = "warn", "is a warning"

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="steps")
    phase = models.CharField(max_length=10, choices=Phase.choices, default=Phase.CHECK)
    position = models.PositiveSmallIntegerField(default=0)
    name = models.CharField(max_length=60)
    kind = models.CharField(max_length=20, default="command", help_text="How its output is read.")
    command = models.CharField(max_length=1000, blank=True, help_text="A program and its arguments.")
    working_directory = models.CharField(max_length=300, blank=True, help_text="Within the release's checkout.")
    timeout_seconds = models.PositiveIntegerField(default=600, validators=_at_least(1, 86400))
    blocks = models.BooleanField(default=True, help_text="Off: a failure is only a warning.")
    unknown_policy = models.CharField(
        max_length=10, choices=Unknown.choices, default=Unknown.BLOCK, help_text="When it could not be told."
    )
    enabled = models.BooleanField(default=True)

    history = HistoricalRecords()

    class Meta:
        ordering = ("service_id", "phase", "position", "pk")
        constraints = (models.UniqueConstraint(fields=("service", "phase", "name"), name="deployments_step_names"),)

    def __str__(self) -> str:
        return self.name


class Release(models.Model):
    """One version of a service. Immutable: what it is resolved to (``digest``) is written once."""

    class Source(models.TextChoices):
        GIT = "git", "git repository"
        DIRECTORY = "directory", "local directory"
        IMAGE = "image", "container image"

    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="releases")
    version = models.CharField(max_length=64, validators=[VERSION])
    source_kind = models.CharField(max_length=10, choices=Source.choices)
    source = models.CharField(max_length=500, help_text="A repository, a directory, or an image.")
    ref = models.CharField(max_length=200, blank=True, help_text="Branch, tag or commit of a repository.")
    digest = models.CharField(max_length=100, blank=True, editable=False, help_text="Commit, tree hash, image digest.")
    forward_only = models.BooleanField(
        default=False, help_text="There is no way back from it (a migration, say): no rollback by itself."
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(editable=False)
    created_by = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        ordering = ("-created_at", "-pk")
        default_permissions = ("add", "view")
        constraints = (models.UniqueConstraint(fields=("service", "version"), name="deployments_one_version"),)

    def __str__(self) -> str:
        return f"{self.service.name} {self.version}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Only a new row, or a digest where there was none, is written; Refused otherwise."""
        if not self._state.adding and (
            set(kwargs.get("update_fields") or ()) != {"digest"}
            or Release.objects.filter(pk=self.pk).exclude(digest="").exists()
        ):
            raise Refused(f"Release {self.version} is never changed.", remedy="Make another release.")
        super().save(*args, **kwargs)

    def clean(self) -> None:
        if self.ref and self.source_kind != self.Source.GIT:
            raise ValidationError({"ref": "Only a git repository has a ref."})


class ServiceState(Leased):
    """What the system notes about a service: which release serves, and what the edge shall do. No history.

    ``split`` is the intended share of each release, {version: permille}; the edge is made from it. The lease
    belongs to whoever carries out this service's tick; only under it are instances and traffic touched.
    """

    service = models.OneToOneField(Service, on_delete=models.CASCADE, related_name="state")
    current = models.ForeignKey(Release, null=True, on_delete=models.SET_NULL, related_name="+")
    previous = models.ForeignKey(Release, null=True, on_delete=models.SET_NULL, related_name="+")
    split = models.JSONField(default=dict)
    generation = models.BigIntegerField(default=0, help_text="Rises with each change of what the edge shall do.")
    due_at = models.DateTimeField(null=True, db_index=True)
    held = models.BooleanField(default=False, help_text="Its instances are stopped, and stay so (a restore runs).")
    facts = models.JSONField(default=dict, help_text="As last seen: edge, healthy instances.")

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"state of {self.service_id}"


class LineStop(models.Model):
    """“Stop the line”: while the one row says so, nothing is deployed and no traffic moves but back."""

    stopped = models.BooleanField(default=False)
    reason = models.CharField(max_length=300, blank=True)
    changed_at = models.DateTimeField(auto_now=True)
    changed_by = models.CharField(max_length=200, blank=True, editable=False)

    history = HistoricalRecords()

    class Meta:
        constraints = (models.CheckConstraint(condition=Q(pk=1), name="deployments_one_line"),)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"stopped: {self.reason}" if self.stopped else "running"

    @classmethod
    def now(cls) -> LineStop:
        """The one row, or what it would be."""
        return cls.objects.filter(pk=1).first() or cls(pk=1)
