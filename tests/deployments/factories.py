"""Rows of deployments as the engine leaves them, for tests that only look at them: nothing is started by these."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from controlplane.kernel import clock
from deployments.engine.requests import policy_of
from deployments.judge.types import Counts, Sample
from deployments.models import (
    Deployment,
    DeploymentEvent,
    DeploymentStage,
    Instance,
    Observation,
    PipelineStep,
    Release,
    Service,
    ServiceState,
    StepRun,
)
from deployments.stages import SEED, Stage

#: What a deployment that goes well passes through before each of these.
_WAY = ("waiting", "queued", "fetching", "checking", "building", "backing_up", "starting", "shifting", "baking")
#: Ends that lie before the first instance.
_BEFORE = ("failed", "aborted")

#: What a quiet tick counts at 10 %.
NEW, OLD = Counts(requests=10), Counts(requests=90)


def make_service(name: str = "shop", *, stages: Sequence[Stage] = SEED, **columns: Any) -> Service:
    """A service of two local processes at the edge, with the seed's plan of stages and an empty state."""
    values: dict[str, Any] = {
        "target_kind": "process",
        "target_settings": {"command": "python3 -m http.server {port}"},
        "instances": 2,
        "edge_port": 3001,
    }
    service = Service.objects.create(name=name, **{**values, **columns})
    for stage in stages:
        DeploymentStage.objects.create(
            service=service, percentage=Decimal(stage.permille) / 10, bake_seconds=stage.bake_seconds
        )
    ServiceState.objects.create(service=service)
    return service


def make_release(service: Service, version: str = "1.0", **columns: Any) -> Release:
    values: dict[str, Any] = {
        "source_kind": "directory",
        "source": f"/srv/{service.name}/{version}",
        "digest": f"sha256:{version.encode().hex():0<64}"[:71],
        "created_at": clock.now(),
        "created_by": "olga",
    }
    return Release.objects.create(service=service, version=version, **{**values, **columns})


def make_steps(service: Service) -> list[PipelineStep]:
    """Two checks and a build."""
    rows = (
        ("check", 0, "Types", "mypy ."),
        ("check", 1, "Tests", "pytest -q"),
        ("build", 0, "Wheel", "python -m build"),
    )
    return [
        PipelineStep.objects.create(service=service, phase=phase, position=position, name=name, command=command)
        for phase, position, name, command in rows
    ]


def serve(service: Service, release: Release, *, count: int | None = None, **columns: Any) -> list[Instance]:
    """Make the release the one that serves, with its instances ready."""
    state, _ = ServiceState.objects.get_or_create(service=service)
    state.current, state.split = release, {release.version: 1000}
    state.save(update_fields=["current", "split"])
    return [
        make_instance(service, release, slot, **columns)
        for slot in range(service.instances if count is None else count)
    ]


def make_instance(service: Service, release: Release, slot: int = 0, **columns: Any) -> Instance:
    """A ready one; ``columns`` make it anything else."""
    at = clock.now() - timedelta(minutes=3)
    values: dict[str, Any] = {
        "name": f"{service.name}-{release.version}-{slot}",
        "host": "127.0.0.1",
        "port": 20000 + release.pk * 100 + slot,
        "handle": {"pid": 4000 + slot, "started": 1},
        "created_at": at,
        "started_at": at,
        "ready_since": at + timedelta(seconds=4),
        "was_ready": True,
        "seen_at": clock.now(),
    }
    return Instance.objects.create(service=service, release=release, slot=slot, **{**values, **columns})


def make_deployment(
    service: Service,
    release: Release,
    *,
    state: str = "baking",
    at: datetime | None = None,
    stage_index: int = 0,
    **columns: Any,
) -> Deployment:
    """A deployment in a state, with the events that lead there (no machine was asked)."""
    now = clock.now()
    at = at or now - timedelta(minutes=4)
    over = state in ("succeeded", "failed", "aborted", "rolled_back")
    stages = service.stage_plan() or SEED
    milliseconds = int(at.timestamp() * 1000)
    while Deployment.objects.filter(name=f"deploy-{milliseconds}").exists():
        milliseconds += 1
    exposed = state not in _WAY[:7] and not over
    permille = stages[min(stage_index, len(stages) - 1)].permille if exposed else 1000 if state == "succeeded" else 0
    values: dict[str, Any] = {
        "name": f"deploy-{milliseconds}",
        "trigger": "manual",
        "requested_by": "olga",
        "reason": "the new basket",
        "stages": [stage.to_json() for stage in stages],
        "policy": policy_of(service).to_json(),
        "created_at": at,
        "started_at": None if state == "waiting" else at + timedelta(seconds=1),
        "state_since": at + timedelta(seconds=30),
        "stage_since": at + timedelta(seconds=30) if exposed else None,
        "stage_index": stage_index,
        "observed_seconds": 120.0 if state == "baking" else 0.0,
        "requested_permille": permille,
        "effective_permille": permille,
        "finished_at": at + timedelta(minutes=3) if over else None,
    }
    deployment = Deployment.objects.create(service=service, release=release, state=state, **{**values, **columns})
    add_event(deployment, deployment.reason, from_state="waiting", to_state="waiting", actor="olga", at=at)
    reached = _WAY[: _WAY.index(state) + 1] if state in _WAY else _WAY[:4] if state in _BEFORE else _WAY
    path = [*reached, *([] if state in _WAY else [state])]
    for number, (before, after) in enumerate(itertools.pairwise(path)):
        add_event(deployment, from_state=before, to_state=after, at=at + timedelta(seconds=number + 1))
    return deployment


def add_event(
    deployment: Deployment,
    reason: str = "",
    *,
    from_state: str = "",
    to_state: str = "",
    actor: str = "",
    at: datetime | None = None,
) -> DeploymentEvent:
    event = DeploymentEvent(
        subject=deployment,
        at=at or clock.now(),
        from_state=from_state or deployment.state,
        to_state=to_state or deployment.state,
        reason=reason,
        actor=actor,
    )
    event.save()
    return event


def make_step_run(deployment: Deployment, position: int = 0, **columns: Any) -> StepRun:
    """One that passed; give ``outcome=""`` and ``finished_at=None`` for one that runs."""
    at = clock.now() - timedelta(minutes=3)
    values: dict[str, Any] = {
        "phase": "check",
        "name": f"Step {position}",
        "kind": "command",
        "spec": {"argv": ["pytest", "-q"], "cwd": "/srv/shop", "timeout_seconds": 600},
        "started_at": at,
        "finished_at": at + timedelta(seconds=12),
        "exit_code": 0,
        "outcome": "passed",
        "summary": "214 passed",
    }
    return StepRun.objects.create(deployment=deployment, position=position, **{**values, **columns})


def observe(
    deployment: Deployment,
    count: int = 1,
    *,
    every_seconds: float = 2,
    until: datetime | None = None,
    new: Counts | None = NEW,
    old: Counts | None = OLD,
    **sample: Any,
) -> list[Observation]:
    """What ``count`` ticks saw, the last of them at ``until``."""
    until = until or clock.now()
    values: dict[str, Any] = {"score": 100, "p95_new_ms": 42.0, "p95_old_ms": 40.0, **sample}
    rows = []
    for number in range(count):
        at = until - timedelta(seconds=every_seconds * (count - 1 - number))
        seen = Sample(
            at=at,
            stage_index=deployment.stage_index,
            permille=deployment.effective_permille or 0,
            new=new,
            old=old,
            **values,
        )
        rows.append(
            Observation(
                deployment=deployment, at=at, stage_index=seen.stage_index, permille=seen.permille, data=seen.to_json()
            )
        )
    return Observation.objects.bulk_create(rows)
