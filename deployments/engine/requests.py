"""Asking for a deployment, and steering one: what the admin, the API and the command line call."""

from __future__ import annotations

from datetime import datetime

import structlog
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from deployments.machines import ACTIVE, BEFORE_INSTANCES, DEPLOYMENT, PAUSABLE
from deployments.models import Command, Deployment, LineStop, Release, Service, ServiceState
from deployments.rollout.policy import RolloutPolicy
from deployments.stages import check_stages

from . import sending
from .events import note

log = structlog.get_logger(__name__)

_TRIES = 50
#: A person's acts, and the states in which each makes sense.
_STEERABLE: dict[str, tuple[str, ...]] = {
    Command.Kind.PROMOTE: ("baking", "paused"),
    Command.Kind.PROMOTE_FULLY: ("starting", "shifting", "baking", "paused", "rollback_blocked"),
    Command.Kind.PAUSE: PAUSABLE,
    Command.Kind.RESUME: ("paused",),
    Command.Kind.ABORT: tuple(sorted(set(ACTIVE) - {"rolling_back", "rollback_blocked"} | {"waiting"})),
    Command.Kind.RETRY: ("rollback_blocked", "failed", "aborted", "rolled_back"),
    Command.Kind.ROLL_BACK: (*sorted(set(ACTIVE) - BEFORE_INSTANCES - {"rolling_back"}), "succeeded"),
}


def create_release(
    service: Service,
    version: str,
    *,
    source_kind: str,
    source: str,
    ref: str = "",
    forward_only: bool = False,
    notes: str = "",
    created_by: str = "",
    now: datetime | None = None,
) -> Release:
    """The release of that version: a new one, or the present one if it is the same. Refused where it differs."""
    release = Release(
        service=service, version=version, source_kind=source_kind, source=source, ref=ref, forward_only=forward_only,
        notes=notes, created_by=created_by, created_at=now or clock.now(),
    )  # fmt: skip
    present = Release.objects.filter(service=service, version=version).first()
    if present is not None:
        same = ("source_kind", "source", "ref", "forward_only")
        if any(getattr(present, name) != getattr(release, name) for name in same):
            raise Refused(
                f"{service.name} has a release {version} with another source.",
                remedy="A release is never changed: give the new one another version.",
            )
        return present
    try:
        release.full_clean(exclude=["service"])
    except ValidationError as error:
        raise Refused(f"That is no release: {'; '.join(error.messages)}") from None
    release.save(force_insert=True)
    return release


def find_release(service: Service, version: str) -> Release:
    """The release of that version; Refused with the versions that there are."""
    release = Release.objects.filter(service=service, version=version).first()
    if release is None:
        known = Release.objects.filter(service=service).values_list("version", flat=True)[:8]
        raise Refused(
            f"{service.name} has no release {version}.",
            remedy=f"It has: {', '.join(known)}." if known else "Make one, with its source.",
        )
    return release


def policy_of(service: Service) -> RolloutPolicy:
    """The service's settings as a deployment begun now would freeze them."""
    same = {
        name: getattr(service, name)
        for name in RolloutPolicy.__dataclass_fields__
        if name not in ("has_backup_plan", "has_edge", "has_document")
    }
    return RolloutPolicy(
        **same,
        has_backup_plan=service.backup_plan_id is not None,
        has_edge=service.edge_port is not None,
        has_document=bool(service.document_path),
    )


def request_deployment(
    service: Service,
    release: Release,
    *,
    trigger: str,
    requested_by: str = "",
    reason: str = "",
    skips_pipeline: bool = False,
    at_once: bool = False,
    now: datetime | None = None,
) -> Deployment:
    """Ask for a release to be deployed. It waits or is refused (the service says which) while another one is active.

    ``at_once``: without stages (a first release, a way back). Refused for a bad stage plan, a stopped line, a release
    of another service, or one that already serves everybody.
    """
    now = now or clock.now()
    if release.service_id != service.pk:
        raise Refused(f"{release} is no release of {service.name}.")
    if not service.enabled:
        raise Refused(f"{service.name} is switched off.", remedy="Enable the service.")
    stages = service.stage_plan() if not at_once else ()
    if not at_once:
        check_stages(stages)
    with transaction.atomic():
        service = Service.objects.select_for_update().get(pk=service.pk)
        state, _ = ServiceState.objects.get_or_create(service=service)
        active = Deployment.objects.filter(service=service, state__in=ACTIVE).first()
        _refuse_now(service, release, state, active, trigger)
        deployment = _create(
            Deployment(
                service=service,
                release=release,
                trigger=trigger,
                requested_by=requested_by,
                reason=reason,
                stages=[stage.to_json() for stage in stages] or [{"permille": 1000, "bake_seconds": 0}],
                policy=policy_of(service).to_json(),
                skips_pipeline=skips_pipeline,
                created_at=now,
                state_since=now,
                due_at=now,
            )
        )
        note(deployment, reason or f"requested ({trigger})", actor=requested_by, now=now)
        sending.send_tick(service.pk)
    log.info("deployment_requested", deployment=deployment.name, service=service.name, release=release.version)
    return deployment


def request_command(
    deployment: Deployment, kind: str, *, actor: str, reason: str = "", now: datetime | None = None
) -> Command:
    """Ask a deployment to do something; the next tick (at most two seconds away) does it.

    RETRY and ROLL_BACK of one that is over ask for a new deployment, named in the command's ``outcome``. Refused
    where it makes no sense in the present state.
    """
    now = now or clock.now()
    if kind not in Command.Kind.values:
        raise Refused(f"There is no command {kind!r}.", remedy=f"There are: {', '.join(Command.Kind.values)}.")
    deployment.refresh_from_db()
    if deployment.state not in _STEERABLE[kind]:
        possible = [name for name, states in _STEERABLE.items() if deployment.state in states]
        raise Refused(
            f"{deployment.name} is {deployment.state.replace('_', ' ')}: it cannot {kind.replace('_', ' ')}.",
            remedy=f"Possible now: {', '.join(possible)}." if possible else "It is over.",
        )
    with transaction.atomic():
        command = Command(deployment=deployment, kind=kind, actor=actor, reason=reason, created_at=now)
        if deployment.state in DEPLOYMENT.terminal_states:
            follower = _follow(deployment, kind, actor=actor, reason=reason, now=now)
            command.applied_at, command.outcome = now, f"asked for {follower.name}"
        command.save(force_insert=True)
        note(deployment, f"asked to {kind.replace('_', ' ')}{f': {reason}' if reason else ''}", actor=actor, now=now)
        sending.send_tick(deployment.service_id)
    return command


def possible_commands(deployment: Deployment) -> list[str]:
    """What a person may ask of it in its present state, in the order of the buttons."""
    return [kind for kind in Command.Kind.values if deployment.state in _STEERABLE[kind]]


def _follow(deployment: Deployment, kind: str, *, actor: str, reason: str, now: datetime) -> Deployment:
    """The new deployment that retrying, or going back behind, one that is over amounts to."""
    service = deployment.service
    if kind == Command.Kind.RETRY:
        return request_deployment(
            service, deployment.release, trigger=Deployment.Trigger.RETRY, requested_by=actor,
            reason=reason or f"{deployment.name} once more", now=now,
        )  # fmt: skip
    if deployment.release.forward_only:
        raise Refused(f"{deployment.release} is forward-only: there is no way back from it.", remedy="Go forward.")
    if deployment.from_release is None:
        raise Refused(f"{deployment.name} was the first: there is no release to go back to.")
    return request_deployment(
        service, deployment.from_release, trigger=Deployment.Trigger.ROLLBACK, requested_by=actor,
        reason=reason or f"back behind {deployment.name}", skips_pipeline=True, at_once=True, now=now,
    )  # fmt: skip


def _refuse_now(
    service: Service, release: Release, state: ServiceState, active: Deployment | None, trigger: str
) -> None:
    line = LineStop.now()
    if line.stopped and trigger != Deployment.Trigger.ROLLBACK:
        raise Refused(f"The line is stopped: {line.reason}", remedy="Let it run again first.")
    if active is None and state.current_id == release.pk:
        raise Refused(f"{release} already serves everybody.", remedy="Deploy another release.")
    if active is not None and service.busy_policy == Service.Busy.REFUSE:
        raise Refused(
            f"{active.name} of {service.name} is {active.state.replace('_', ' ')}.", remedy="Wait for it, or abort it."
        )


def _create(deployment: Deployment) -> Deployment:
    """Save the row under the first free name, ``deploy-<milliseconds>``."""
    milliseconds = int(deployment.created_at.timestamp() * 1000)
    for more in range(_TRIES):
        deployment.name = f"deploy-{milliseconds + more}"
        try:
            with transaction.atomic():
                deployment.save(force_insert=True)
        except IntegrityError:
            deployment.pk = None
            continue
        return deployment
    raise Refused("No free name was found for the deployment.", remedy="Try again.")


def stop_line(*, stopped: bool, reason: str, actor: str) -> LineStop:
    """Stop the line for every service, or let it run again. A stopped line lets only rollbacks move."""
    if stopped and not reason.strip():
        raise Refused("The line is not stopped without a reason.", remedy="Say why: others will want to know.")
    line = LineStop.now()
    line.stopped, line.reason, line.changed_by = stopped, reason, actor
    line.save()
    log.warning("line_stopped" if stopped else "line_released", actor=actor, reason=reason)
    return line
