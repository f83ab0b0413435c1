"""Services, releases and deployments: look, deploy, steer."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from ninja import Query, Router

from controlplane.api import schemas
from controlplane.api.auth import caller, demand, scoped
from controlplane.api.idempotency import Accepted, once
from controlplane.api.paging import Paging, page
from deployments.cli import facts
from deployments.cli.planning import plan_as_json
from deployments.cli.sources import release_for
from deployments.engine.requests import request_command, request_deployment
from deployments.machines import ACTIVE
from deployments.models import Deployment, DeploymentEvent, Release, Service

router = Router(tags=["deployments"])
READ, WRITE, STEER = "deployments:read", "deployments:write", "deployments:steer"


class DeploymentFilters(Paging):
    """Which deployments."""

    service: str = ""
    version: str = ""
    state: str = ""
    active: bool | None = None


def location(deployment: Deployment) -> str:
    return f"/api/v1/deployments/{deployment.name}"


def _service(name: str) -> Service:
    service = facts.services().filter(name=name).first()
    if service is None:
        raise Http404(f"There is no service {name}.")
    return service


def _deployment(name: str) -> Deployment:
    deployment = facts.deployments().filter(name=name).first()
    if deployment is None:
        raise Http404(f"There is no deployment {name}.")
    return deployment


@router.get("/services", **scoped(READ, operation_id="list_services", response=schemas.Page[schemas.Service]))
def list_services(request: HttpRequest, paging: Query[Paging]) -> dict[str, Any]:
    """Services and what serves them."""
    return page(request, facts.services(), paging, facts.service_as_json)


@router.get("/services/{name}", **scoped(READ, operation_id="get_service", response=schemas.Service))
def get_service(request: HttpRequest, name: str) -> dict[str, Any]:
    """One service."""
    return facts.service_as_json(_service(name))


@router.get("/services/{name}/plan", **scoped(READ, operation_id="plan_deployment", response=schemas.Plan))
def plan_deployment(request: HttpRequest, name: str, version: str = "") -> dict[str, Any]:
    """What a deployment begun now would do, and what stands in its way."""
    return plan_as_json(_service(name), version)


@router.get(
    "/services/{name}/releases", **scoped(READ, operation_id="list_releases", response=schemas.Page[schemas.Release])
)
def list_releases(request: HttpRequest, name: str, paging: Query[Paging]) -> dict[str, Any]:
    """Releases of a service, the newest first."""
    rows = Release.objects.filter(service=_service(name)).select_related("service")
    return page(request, rows, paging, facts.release_as_json)


@router.get("/services/{name}/releases/{version}", **scoped(READ, operation_id="get_release", response=schemas.Release))
def get_release(request: HttpRequest, name: str, version: str) -> dict[str, Any]:
    """One release."""
    release = Release.objects.filter(service__name=name, version=version).select_related("service").first()
    if release is None:
        raise Http404(f"{name} has no release {version}.")
    return facts.release_as_json(release)


@router.post(
    "/services/{name}/releases", **scoped(WRITE, operation_id="create_release", response={201: schemas.Release})
)
def create_release(request: HttpRequest, name: str, body: schemas.NewRelease) -> HttpResponse:
    """Make a release, deploying nothing. The same again is answered with the one that is there."""
    token = caller(request)
    demand(token, "deployments.add_release")
    service = _service(name)

    def act() -> Accepted:
        given = body.model_dump() | {"source_kind": body.source_kind or ""}
        release = release_for(service, created_by=token.actor, **given)
        where = f"/api/v1/services/{service.name}/releases/{release.version}"
        return Accepted(schemas.Release(**facts.release_as_json(release)), where, status=201)

    return once(request, act)


@router.get(
    "/deployments", **scoped(READ, operation_id="list_deployments", response=schemas.Page[schemas.DeploymentLine])
)
def list_deployments(request: HttpRequest, filters: Query[DeploymentFilters]) -> dict[str, Any]:
    """Deployments, the newest first."""
    rows = facts.deployments()
    given = {"service__name": filters.service, "release__version": filters.version, "state": filters.state}
    rows = rows.filter(**{name: value for name, value in given.items() if value})
    if filters.active is not None:
        rows = rows.filter(state__in=ACTIVE) if filters.active else rows.exclude(state__in=ACTIVE)
    return page(request, rows, filters, facts.deployment_as_json)


@router.post("/deployments", **scoped(WRITE, operation_id="create_deployment", response={202: schemas.Deployment}))
def create_deployment(request: HttpRequest, body: schemas.NewDeployment) -> HttpResponse:
    """Ask for a release to be deployed. It goes on by itself; look at `Location` until `is_over`."""
    token = caller(request)
    if body.source:
        demand(token, "deployments.add_release")
    if body.at_once or body.skip_pipeline:
        demand(token, "deployments.promote_fully_deployment")
    service = _service(body.service)

    def act() -> Accepted:
        release = release_for(
            service, body.version, source=body.source, source_kind=body.source_kind or "", ref=body.ref,
            forward_only=body.forward_only, notes=body.notes, created_by=token.actor,
        )  # fmt: skip
        deployment = request_deployment(
            service, release, trigger=Deployment.Trigger.API, requested_by=token.actor, reason=body.reason,
            skips_pipeline=body.skip_pipeline, at_once=body.at_once,
        )  # fmt: skip
        return Accepted(schemas.Deployment(**facts.deployment_in_full(deployment)), location(deployment))

    return once(request, act)


@router.get("/deployments/{name}", **scoped(READ, operation_id="get_deployment", response=schemas.Deployment))
def get_deployment(request: HttpRequest, name: str) -> dict[str, Any]:
    """One deployment: its stages, steps, instances, health and verdict."""
    return facts.deployment_in_full(_deployment(name))


@router.get(
    "/deployments/{name}/events",
    **scoped(READ, operation_id="list_deployment_events", response=schemas.Page[schemas.Event]),
)
def list_deployment_events(request: HttpRequest, name: str, paging: Query[Paging]) -> dict[str, Any]:
    """What happened, the last first."""
    rows = DeploymentEvent.objects.filter(subject=_deployment(name))
    return page(request, rows, paging, facts.event_as_json)


@router.post(
    "/deployments/{name}/commands", **scoped(STEER, operation_id="steer_deployment", response={202: schemas.Command})
)
def steer_deployment(request: HttpRequest, name: str, body: schemas.NewCommand) -> HttpResponse:
    """Promote, pause, resume, abort, retry or roll back. `Location` is the deployment in which it shows."""
    token = caller(request)
    demand(token, f"deployments.{body.kind}_deployment")
    deployment = _deployment(name)

    def act() -> Accepted:
        was_over = deployment.is_over
        command = request_command(deployment, body.kind, actor=token.actor, reason=body.reason)
        follower = command.outcome.removeprefix("asked for ") if was_over else None
        answer = schemas.Command(
            deployment=name, kind=command.kind, actor=command.actor, reason=command.reason,
            created_at=command.created_at, outcome=command.outcome, follower=follower,
        )  # fmt: skip
        return Accepted(answer, f"/api/v1/deployments/{follower or name}")

    return once(request, act)
