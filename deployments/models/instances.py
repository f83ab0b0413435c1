"""The instances of releases. What they do is seen anew by each tick; the row says what is wanted of them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from .services import Release, Service


class Instance(models.Model):
    """One process or container of a release. Its name is made from service, release and slot, so that whoever
    starts it twice starts it once. Only the holder of the service's lease writes it.
    """

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="all_instances")
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="instances")
    deployment = models.ForeignKey(
        "deployments.Deployment", null=True, on_delete=models.SET_NULL, related_name="instances"
    )
    slot = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=120)
    host = models.CharField(max_length=100, blank=True)
    port = models.PositiveIntegerField(null=True)
    handle = models.JSONField(default=dict, help_text="What the target finds it by: pid and start time, container id.")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    ready_since = models.DateTimeField(null=True, help_text="Null while it is not ready.")
    was_ready = models.BooleanField(default=False)
    seen_at = models.DateTimeField(null=True)
    draining_since = models.DateTimeField(null=True, help_text="It gets no new requests.")
    stopping_since = models.DateTimeField(null=True, help_text="It was asked to end.")
    stopped_at = models.DateTimeField(null=True)
    restarts = models.PositiveIntegerField(default=0)
    exit_code = models.IntegerField(null=True)
    oom_killed = models.BooleanField(default=False)
    failure = models.CharField(max_length=300, blank=True)
    health = models.JSONField(default=dict, help_text="The last health document, and when it was read.")

    class Meta:
        ordering = ("service_id", "release_id", "slot", "pk")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(
                fields=("release", "slot"), condition=Q(stopped_at__isnull=True), name="deployments_one_instance_a_slot"
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def condition(self) -> str:
        """One word for people: starting, ready, unready, draining, stopping, stopped, failed."""
        if self.stopped_at is not None:
            return "failed" if self.failure else "stopped"
        if self.stopping_since is not None:
            return "stopping"
        if self.draining_since is not None:
            return "draining"
        if self.ready_since is not None:
            return "ready"
        return "unready" if self.was_ready else "starting"
