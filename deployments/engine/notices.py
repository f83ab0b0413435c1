"""What people are told of deployments, in whose words: one key per matter, so that it is said once."""

from __future__ import annotations

from datetime import datetime

from controlplane.notifications.api import Kind, notify
from deployments.models import Deployment, Service
from deployments.rollout.types import Notify

KINDS = (
    Kind("deployment_failed", "Deployment failed", "A release was not deployed: a step, a check or its backup failed."),
    Kind("deployment_rolled_back", "Deployment rolled back", "A release was bad, and the one before it serves again."),
    Kind("rollback_blocked", "Rollback blocked", "A release is bad and cannot be taken back by itself."),
    Kind("deployment_held", "Deployment held", "A deployment waits for a person: too little data, or the edge fails."),
    Kind("deployment_succeeded", "Deployment succeeded", "A release serves everybody."),
    Kind("service_degraded", "Service degraded", "A service is short of healthy instances, or its edge is broken."),
)


def send(deployment: Deployment, said: Notify) -> None:
    """In the caller's transaction. The same matter of a stage is one message, however often it is written."""
    matter = "" if said.kind != "deployment_held" else f":{deployment.stage_index}:{deployment.extensions}"
    notify(
        said.kind,
        key=f"{said.kind}:{deployment.name}{matter}",
        title=f"{deployment.service.name}: {said.title}",
        body=said.body,
        severity=said.severity,
        link=f"/admin/deployments/deployment/{deployment.pk}/change/",
    )


def tell_degraded(service: Service, why: str, now: datetime) -> None:
    """Once an hour, for as long as it lasts."""
    notify(
        "service_degraded",
        key=f"service_degraded:{service.name}:{now:%Y-%m-%dT%H}",
        title=f"{service.name} is degraded",
        body=why,
        severity="warning",
        link=f"/admin/deployments/service/{service.pk}/change/",
    )
