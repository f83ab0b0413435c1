"""What one tick sees of a service: its instances and what they say, the edge, the pipeline, the backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from controlplane.kernel import clock
from deployments.edge.base import CountersSeen, RouteSeen
from deployments.machines import ACTIVE, BEFORE_INSTANCES
from deployments.models import Command, Deployment, LineStop, Release
from deployments.pipeline.folder import boot_id
from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.turn import hard_reason
from deployments.rollout.types import CommandView, EdgeView, InstanceView, Observations, RolloutView

from . import backing, instances, pipeline_steps, publication
from .asking import Question, Said, ask
from .held import Held
from .instances import Standing
from .judging import Judged, counters_of, judge_tick

#: States in which the new release is judged: whatever it does to its callers counts, paused or not.
_JUDGED = frozenset({"shifting", "baking", "validating", "paused"})


@dataclass
class Sight:
    """``standing`` None: the target did not answer. ``judged`` is of the tick, not of each look."""

    now: datetime
    standing: list[Standing] | None
    said: Mapping[str, Said] = field(default_factory=dict)
    views: tuple[InstanceView, ...] | None = None
    route: RouteSeen | None = None
    counters: CountersSeen | None = None
    judged: Judged = field(default_factory=Judged)


def look(held: Held, *, asks: bool, judged: Judged | None = None) -> Sight:
    """Look at everything. ``asks``: the instances are asked too, and the deployment is judged; the first look of a
    tick does both, those after an effect only see what it did.
    """
    standing = instances.find(held)
    now = clock.now()
    sight = Sight(now, standing, judged=judged or Judged(), route=publication.seen_of(held.service))
    if standing is not None:
        held.fence()
        sight.said = ask(_questions(held, standing)) if asks else {}
        sight.now = now = clock.now()
        held.fence()
        if asks:
            instances.note(standing, sight.said, sight.route, now)
        sight.views = instances.views(standing, now)
    sight.counters = counters_of(held)
    if asks and sight.standing is not None and _is_judged(held.deployment):
        sight.judged = judge_tick(
            held, sight.standing, sight.said, sight.counters, permille=_share(held, sight.route),
            gates=_gates(held, sight.views or ()), now=now,
        )  # fmt: skip
    return sight


def _is_judged(deployment: Deployment | None) -> bool:
    if deployment is None or deployment.state not in _JUDGED:
        return False
    if deployment.state == "paused" and deployment.resume_to in BEFORE_INSTANCES | {"starting"}:
        return False
    return deployment.requested_permille > 0


def _share(held: Held, route: RouteSeen | None) -> int:
    """The share that the new release really has, as far as it is known."""
    deployment = held.deployment
    if deployment is None:
        return 0
    if route is None:
        return deployment.requested_permille
    return int(route.permille.get(deployment.release.version, 0))


def _gates(held: Held, views: Sequence[InstanceView]) -> list[str]:
    deployment = held.deployment
    if deployment is None or deployment.memory.get("trusted"):
        return []
    policy = RolloutPolicy.from_json(deployment.policy)
    reason = hard_reason((one for one in views if one.release == deployment.release.version), policy)
    return [reason] if reason else []


def _questions(held: Held, standing: Sequence[Standing]) -> list[Question]:
    new = held.deployment.release_id if held.deployment is not None else None
    return [
        Question(
            one.row.name, one.seen.host, one.seen.port, held.service.health_path,
            held.service.document_path if one.row.release_id == new or held.deployment is None else "",
        )
        for one in standing
        if one.seen is not None and one.seen.running and one.seen.port is not None
    ]  # fmt: skip


# --- for the pure core ---------------------------------------------------------------------------------------------


def view_of(deployment: Deployment) -> RolloutView:
    return RolloutView(
        name=deployment.name,
        state=deployment.state,
        release=deployment.release.version,
        from_release=deployment.from_release.version if deployment.from_release else None,
        stages=deployment.stage_plan,
        policy=RolloutPolicy.from_json(deployment.policy),
        trigger=deployment.trigger,
        skips_pipeline=deployment.skips_pipeline,
        forward_only=deployment.release.forward_only,
        stage_index=deployment.stage_index,
        stage_since=deployment.stage_since,
        observed_seconds=deployment.observed_seconds,
        observed_at=deployment.observed_at,
        extensions=deployment.extensions,
        resume_to=deployment.resume_to,
        pause_reason=deployment.pause_reason,
        requested_permille=deployment.requested_permille,
        error=deployment.error,
        started_at=deployment.started_at,
        promoted_at=deployment.promoted_at,
        memory=deployment.memory,
    )


def edge_view(held: Held, sight: Sight) -> EdgeView | None:
    route = sight.route
    if route is None:
        return None
    active = {} if sight.counters is None else {v: one.active for v, one in sight.counters.releases.items()}
    current = route.generation >= held.state.generation and bool(held.state.facts.get("told"))
    return EdgeView({version: share for version, share in route.permille.items() if share}, current, active)


def observations(held: Held, sight: Sight) -> Observations:
    deployment, state = held.deployment, held.state
    assert deployment is not None  # noqa: S101  (only asked with one)
    line = LineStop.now()
    others = Deployment.objects.filter(service=held.service).exclude(pk=deployment.pk)
    active = others.filter(state__in=ACTIVE).values_list("name", flat=True).first()
    return Observations(
        instances=sight.views,
        edge=edge_view(held, sight),
        split=dict(state.split),
        counted=sight.judged.counted,
        verdict=sight.judged.verdict,
        health=sight.judged.health,
        steps=pipeline_steps.look(held),
        backup=backing.view_of(deployment),
        line_stopped=(line.reason or "stopped") if line.stopped else "",
        other_active=active or "",
        current_release=state.current.version if state.current else None,
        way_back=_without_files(held, deployment.from_release),
        source_gone=_without_files(held, deployment.release),
        boot=_boot(),
        monotonic=clock.monotonic(),
    )


def commands_of(deployment: Deployment) -> list[CommandView]:
    rows = Command.objects.filter(deployment=deployment, applied_at__isnull=True).order_by("created_at", "pk")
    return [CommandView(row.pk, row.kind, row.actor, row.reason) for row in rows]


def _without_files(held: Held, release: Release | None) -> str:
    """Why a release could not be started (again); what runs of it needs no start."""
    if release is None or release.source_kind == Release.Source.IMAGE:
        return ""
    if pipeline_steps.checkout_of(held.service, release) is None:
        return f"The files of {release.version} are gone: it cannot be started."
    return ""


@cache
def _boot() -> str:
    return boot_id()
