"""Rows as plain data: what `--json` prints and what the API answers are made of the same."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, QuerySet

from controlplane.kernel.errors import Refused
from deployments.engine.requests import possible_commands
from deployments.machines import ACTIVE
from deployments.models import Deployment, DeploymentEvent, Instance, Release, Service, StepRun


def percent(permille: int | None) -> float | None:
    """Shares are permille inside and percent outside."""
    return None if permille is None else permille / 10


# --- finding ------------------------------------------------------------------------------------------------------


def find_service(name: str) -> Service:
    """The service of that name; Refused with those that there are."""
    service = Service.objects.filter(name=name).select_related("backup_plan").first()
    if service is None:
        known = list(Service.objects.values_list("name", flat=True)[:8])
        remedy = f"There are: {', '.join(known)}." if known else "Make one in the admin."
        raise Refused(f"There is no service {name}.", remedy=remedy)
    return service


def deployments() -> QuerySet[Deployment]:
    """With all that :func:`deployment_as_json` looks at, in one query."""
    return Deployment.objects.select_related("service", "release", "from_release", "backup")


def find_deployment(name: str) -> Deployment:
    """The deployment of that name; or, by a service's name, its active one, else its last. Refused without any."""
    found = deployments().filter(name=name).first()
    if found is not None:
        return found
    if not Service.objects.filter(name=name).exists():
        raise Refused(f"There is no deployment and no service {name}.", remedy="See `manage.py deploy status`.")
    of_service = deployments().filter(service__name=name)
    active = of_service.filter(Q(state__in=ACTIVE)).first() or of_service.filter(state="waiting").first()
    last = active or of_service.first()
    if last is None:
        raise Refused(f"{name} was never deployed.", remedy=f"Run `manage.py deploy {name} --version …`.")
    return last


# --- as JSON ------------------------------------------------------------------------------------------------------


def release_as_json(release: Release) -> dict[str, Any]:
    return {
        "service": release.service.name,
        "version": release.version,
        "source_kind": release.source_kind,
        "source": release.source,
        "ref": release.ref,
        "digest": release.digest,
        "forward_only": release.forward_only,
        "notes": release.notes,
        "created_at": release.created_at,
        "created_by": release.created_by,
    }


def deployment_as_json(deployment: Deployment) -> dict[str, Any]:
    """One line of a list; :func:`deployment_in_full` has more."""
    return {
        "name": deployment.name,
        "service": deployment.service.name,
        "version": deployment.release.version,
        "from_version": deployment.from_release.version if deployment.from_release else None,
        "state": deployment.state,
        "is_over": deployment.is_over,
        "trigger": deployment.trigger,
        "requested_by": deployment.requested_by,
        "reason": deployment.reason,
        "stage": deployment.stage_index,
        "requested_percent": percent(deployment.requested_permille),
        "effective_percent": percent(deployment.effective_permille),
        "pause_reason": deployment.pause_reason,
        "error": deployment.error,
        "created_at": deployment.created_at,
        "started_at": deployment.started_at,
        "promoted_at": deployment.promoted_at,
        "finished_at": deployment.finished_at,
    }


def deployment_in_full(deployment: Deployment) -> dict[str, Any]:
    """Everything of it but its events: stages, steps, instances, health, verdict, and what may be asked of it."""
    return {
        **deployment_as_json(deployment),
        "stages": [
            {
                "percent": stage.permille / 10,
                "bake_seconds": stage.bake_seconds,
                "standing": _standing(deployment, number),
            }
            for number, stage in enumerate(deployment.stage_plan)
        ],
        "observed_seconds": deployment.observed_seconds,
        "extensions": deployment.extensions,
        "skips_pipeline": deployment.skips_pipeline,
        "health": deployment.health,
        "verdict": deployment.verdict,
        "backup": deployment.backup.name if deployment.backup else None,
        "steps": [step_as_json(step) for step in deployment.step_runs.order_by("pk")],
        "instances": [instance_as_json(one) for one in deployment.instances.select_related("release").order_by("pk")],
        "possible_commands": possible_commands(deployment),
    }


def _standing(deployment: Deployment, number: int) -> str:
    """``done``, ``now`` or ``ahead``, of a stage; nothing is now once traffic went back."""
    if deployment.state == "succeeded" or deployment.state in ("validating", "finishing"):
        return "done"
    if number != deployment.stage_index:
        return "done" if number < deployment.stage_index else "ahead"
    moves = deployment.state in ("starting", "shifting", "baking", "paused", "rolling_back", "rollback_blocked")
    return "now" if moves and deployment.started_at is not None else "ahead"


def step_as_json(step: StepRun) -> dict[str, Any]:
    return {
        "phase": step.phase,
        "name": step.name,
        "attempt": step.attempt,
        "outcome": step.outcome or ("running" if step.started_at else "waiting"),
        "summary": step.summary,
        "findings": step.findings,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    }


def instance_as_json(instance: Instance) -> dict[str, Any]:
    return {
        "name": instance.name,
        "version": instance.release.version,
        "condition": instance.condition,
        "restarts": instance.restarts,
        "failure": instance.failure,
    }


def event_as_json(event: DeploymentEvent) -> dict[str, Any]:
    return {
        "at": event.at,
        "from_state": event.from_state,
        "to_state": event.to_state,
        "reason": event.reason,
        "actor": event.actor,
    }


def service_as_json(service: Service) -> dict[str, Any]:
    """What a service is and what serves it; its environment and its target's settings may hold secrets: left out."""
    state = getattr(service, "state", None)
    return {
        "name": service.name,
        "description": service.description,
        "enabled": service.enabled,
        "environment": service.environment,
        "region": service.region,
        "target_kind": service.target_kind,
        "instances": service.instances,
        "edge_port": service.edge_port,
        "route_prefix": service.route_prefix,
        "health_path": service.health_path,
        "gradual_rollout": service.gradual_rollout,
        "rollback_enabled": service.rollback_enabled,
        "busy_policy": service.busy_policy,
        "backup_plan": service.backup_plan.name if service.backup_plan else None,
        "version": state.current.version if state and state.current else None,
        "previous_version": state.previous.version if state and state.previous else None,
        "split": {version: share / 10 for version, share in state.split.items()} if state else {},
    }


def services() -> QuerySet[Service]:
    """With all that :func:`service_as_json` looks at, in one query."""
    return Service.objects.select_related("backup_plan", "state__current", "state__previous")
