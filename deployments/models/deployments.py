"""Deployments and what happened in them. Only ``transitions.advance`` and a lease write a deployment."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from controlplane.kernel import transitions
from controlplane.kernel.leases import Leased
from deployments.machines import ACTIVE, DEPLOYMENT
from deployments.stages import Stage, from_json

from .services import PipelineStep, Release, Service


class Deployment(Leased):
    """One release on its way to its users. ``stages`` and ``policy`` are frozen when it is asked for.

    Shares are permille; ``effective_permille`` is what the edge was last seen to do. ``observed_seconds`` is the
    time of the present stage in which its health was really seen.
    """

    class Trigger(models.TextChoices):
        MANUAL = "manual", "by hand"
        API = "api", "through the API"
        FIRST = "first", "first release"
        ROLLBACK = "rollback", "back to an earlier release"
        RETRY = "retry", "once more"

    name = models.CharField(max_length=40, unique=True, help_text="deploy-<milliseconds since 1970>")
    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="deployments")
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="deployments")
    from_release = models.ForeignKey(Release, null=True, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=20, default=DEPLOYMENT.initial, db_index=True)
    trigger = models.CharField(max_length=10, choices=Trigger.choices)
    requested_by = models.CharField(max_length=200, blank=True)
    reason = models.TextField(blank=True)
    stages = models.JSONField(default=list)
    policy = models.JSONField(default=dict, help_text="The service's settings as they were (rollout.policy).")
    skips_pipeline = models.BooleanField(default=False)

    stage_index = models.PositiveSmallIntegerField(default=0)
    state_since = models.DateTimeField(null=True, help_text="When it came into its state.")
    stage_since = models.DateTimeField(null=True)
    observed_seconds = models.FloatField(default=0)
    observed_at = models.DateTimeField(null=True)
    extensions = models.PositiveSmallIntegerField(default=0)
    resume_to = models.CharField(max_length=20, blank=True)
    pause_reason = models.TextField(blank=True)
    due_at = models.DateTimeField(null=True, db_index=True)
    requested_permille = models.PositiveSmallIntegerField(default=0)
    effective_permille = models.PositiveSmallIntegerField(null=True)
    memory = models.JSONField(default=dict, help_text="What the next tick must know: deadlines, flags of commands.")
    judge = models.JSONField(default=dict, help_text="The sequential tests' state and the counters' cursors.")
    verdict = models.JSONField(default=dict, help_text="The last verdict: outcome, sentence, numbers.")
    health = models.JSONField(default=dict, help_text="The last health score: value, reasons.")
    backup = models.ForeignKey(
        "backups.BackupRecord", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    error = models.TextField(blank=True, help_text="Why it failed or went back, in one sentence.")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    promoted_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        default_permissions = ("view",)
        permissions = (
            ("start_deployment", "Can start a deployment"),
            ("promote_deployment", "Can promote a deployment to its next stage"),
            ("promote_fully_deployment", "Can promote a deployment to all traffic at once"),
            ("pause_deployment", "Can pause a deployment"),
            ("resume_deployment", "Can resume a deployment"),
            ("abort_deployment", "Can abort a deployment"),
            ("retry_deployment", "Can retry a deployment"),
            ("roll_back_deployment", "Can roll back to an earlier release"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("service",), condition=Q(state__in=ACTIVE), name="deployments_one_active_a_service"
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def stage_plan(self) -> tuple[Stage, ...]:
        return from_json(self.stages)

    @property
    def is_over(self) -> bool:
        return self.state in DEPLOYMENT.terminal_states


class DeploymentEvent(transitions.TransitionEvent):
    """What happened to a deployment: its moves, and acts that move nothing (from and to are then one state)."""

    subject = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="events")

    class Meta(transitions.TransitionEvent.Meta):
        abstract = False


class Command(models.Model):
    """What a person asked of a deployment. Written once; the tick that carries it out notes when and how."""

    class Kind(models.TextChoices):
        PROMOTE = "promote", "Promote"
        PROMOTE_FULLY = "promote_fully", "Promote fully"
        PAUSE = "pause", "Pause"
        RESUME = "resume", "Resume"
        ABORT = "abort", "Abort"
        RETRY = "retry", "Retry"
        ROLL_BACK = "roll_back", "Roll back"

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="commands")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    actor = models.CharField(max_length=200)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField()
    applied_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=300, blank=True, help_text="What became of it, in a sentence.")

    class Meta:
        ordering = ("created_at", "pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.kind} by {self.actor}"


class StepRun(models.Model):
    """One run of one step of the pipeline, frozen from the service's; found again by pid and start time."""

    class Outcome(models.TextChoices):
        PASSED = "passed", "passed"
        FAILED = "failed", "failed"
        WARNED = "warned", "passed with a warning"
        UNKNOWN = "unknown", "could not be told"
        TIMED_OUT = "timed_out", "took too long"

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="step_runs")
    phase = models.CharField(max_length=10, choices=[("fetch", "fetch"), *PipelineStep.Phase.choices])
    position = models.PositiveSmallIntegerField()
    attempt = models.PositiveSmallIntegerField(default=1)
    name = models.CharField(max_length=60)
    kind = models.CharField(max_length=20)
    spec = models.JSONField(default=dict, help_text="Command, directory, time limit and policies as they were.")
    handle = models.JSONField(default=dict)
    folder = models.CharField(max_length=500, blank=True, help_text="Where its output and its end are written.")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    exit_code = models.IntegerField(null=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, blank=True)
    summary = models.CharField(max_length=500, blank=True)
    findings = models.JSONField(default=dict)

    class Meta:
        ordering = ("deployment_id", "pk")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(
                fields=("deployment", "phase", "position", "attempt"), name="deployments_one_run_a_step"
            ),
        )

    def __str__(self) -> str:
        return f"{self.deployment_id}/{self.name}"


class Observation(models.Model):
    """What one tick saw of both releases: the judge's input, kept so that a rollout can be judged again."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="observations")
    at = models.DateTimeField()
    stage_index = models.PositiveSmallIntegerField()
    permille = models.PositiveSmallIntegerField()
    data = models.JSONField(help_text="judge.types.Sample as JSON, and the health score.")

    class Meta:
        ordering = ("deployment_id", "at", "pk")
        default_permissions = ("view",)
        indexes = (models.Index(fields=("deployment", "at"), name="deployments_seen"),)

    def __str__(self) -> str:
        return f"{self.deployment_id} at {self.at}"
