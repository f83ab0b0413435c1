"""What a deployment of a service would do, begun now; nothing is asked for."""

from __future__ import annotations

from typing import Any

from controlplane.kernel.errors import ZantaraError
from deployments.engine.requests import find_release, policy_of
from deployments.machines import ACTIVE
from deployments.models import Deployment, LineStop, PipelineStep, Release, Service, ServiceState
from deployments.rollout.preview import PlannedStage, planned_stages
from deployments.stages import Stage, check_stages

#: In the order in which they are run; validation at 100 %.
_PHASES = tuple(PipelineStep.Phase.values)
_GO_ON = {"hold": "it is held for a person", "abort": "it is taken back", "promote": "it goes on"}


def plan_as_json(service: Service, version: str = "") -> dict[str, Any]:
    """Stages with requested and effective exposure, the pipeline, and what stands in the way.

    Refused for a version that the service does not have.
    """
    release = find_release(service, version) if version else None
    state = ServiceState.objects.filter(service=service).select_related("current").first()
    current = state.current if state else None
    stages = service.stage_plan()
    return {
        "service": service.name,
        "version": release.version if release else None,
        "from_version": current.version if current else None,
        "obstacles": _obstacles(service, release, current, stages),
        "pipeline": [
            {
                "phase": step.phase,
                "name": step.name,
                "kind": step.kind,
                "timeout_seconds": step.timeout_seconds,
                "blocks": step.blocks,
                "unknown": step.unknown_policy,
            }
            for step in sorted(service.steps.filter(enabled=True), key=lambda step: _PHASES.index(step.phase))
        ],
        "backup": {"plan": service.backup_plan.name, "level": service.backup_level} if service.backup_plan else None,
        "stages": [
            _stage_as_json(planned)
            for planned in planned_stages(stages, policy_of(service), has_old=current is not None)
        ],
        "if_bad": "it is taken back" if service.rollback_enabled else "it is held for a person",
        "if_inconclusive": (
            f"it is watched {service.inconclusive_extensions} times longer, then {_GO_ON[service.inconclusive_policy]}"
        ),
    }


def _stage_as_json(planned: PlannedStage) -> dict[str, Any]:
    return {
        "requested_percent": planned.stage.permille / 10,
        "effective_percent": planned.effective_permille / 10,
        "bake_seconds": planned.stage.bake_seconds,
        "new_instances": planned.new,
        "old_instances": planned.old,
    }


def _obstacles(
    service: Service, release: Release | None, current: Release | None, stages: tuple[Stage, ...]
) -> list[str]:
    """Why it would wait or be refused, in sentences."""
    found = []
    line = LineStop.now()
    if not service.enabled:
        found.append(f"Refused: {service.name} is switched off.")
    if line.stopped:
        found.append(f"Refused: the line is stopped: {line.reason}")
    active = Deployment.objects.filter(service=service, state__in=ACTIVE).first()
    if active is not None:
        what = "Waits for" if service.busy_policy == Service.Busy.WAIT else "Refused while there is"
        found.append(f"{what} {active.name}, which is {active.state.replace('_', ' ')}.")
    elif release is not None and current is not None and current.pk == release.pk:
        found.append(f"Refused: {release.version} already serves everybody.")
    try:
        check_stages(stages)
    except ZantaraError as bad:
        found.append(f"Refused: {bad}")
    if release is not None and release.forward_only:
        found.append(f"There is no way back from {release.version}: it is forward-only.")
    return found
