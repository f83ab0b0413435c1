"""What a deployment begun now would do: stages, exposure, capacity, steps, backup. It changes nothing."""

from __future__ import annotations

from typing import Any

from controlplane.console.base import human_seconds
from controlplane.kernel.errors import ZantaraError
from deployments.engine.requests import policy_of
from deployments.machines import ACTIVE
from deployments.models import LineStop, Release, Service
from deployments.rollout.capacity import most_instances
from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.preview import PlannedStage, planned_stages, why_skipped
from deployments.stages import FULL, Stage, check_stages

from .words import PHASES, counted

MOST_RELEASES = 50


def plan_preview(service: Service, release_pk: int | None) -> dict[str, Any]:
    """The context of the preview's page. Without a release it tells of the newest, or of none."""
    releases = list(service.releases.all()[:MOST_RELEASES])
    release = next((one for one in releases if one.pk == release_pk), releases[0] if releases else None)
    state = getattr(service, "state", None)
    old = state.current if state is not None else None
    policy = policy_of(service)
    stages = service.stage_plan()
    steps = [step for step in service.steps.all() if step.enabled]
    return {
        "releases": releases,
        "release": release,
        "old": old,
        "objections": objections(service, release, old, stages),
        "stages": stage_plan(stages, policy, has_old=old is not None),
        "least": human_seconds(sum(stage.bake_seconds for stage in stages)),
        "most_instances": most_instances(policy.instances, policy.max_surge),
        "steps": [
            {
                "phase": PHASES[phase],
                "steps": [
                    {
                        "name": step.name,
                        "command": step.command or f"as the kind “{step.kind}” does by itself",
                        "blocks": "stops the deployment" if step.blocks else "a failure is only a warning",
                        "limit": human_seconds(step.timeout_seconds),
                    }
                    for step in steps
                    if step.phase == phase
                ],
            }
            for phase in ("check", "build", "validate")
        ],
        "backup": backup_words(service),
        "way_back": way_back(release, old, policy),
        "judged": judged(policy),
    }


def objections(service: Service, release: Release | None, old: Release | None, stages: tuple[Stage, ...]) -> list[str]:
    """Why it would be refused, or wait, if it were asked for now."""
    found = []
    line = LineStop.now()
    if line.stopped:
        found.append(f"It would be refused: the line is stopped ({line.reason}).")
    if not service.enabled:
        found.append("It would be refused: the service is switched off.")
    if release is not None and old is not None and release.pk == old.pk:
        found.append(f"It would be refused: {release.version} serves everybody already.")
    try:
        check_stages(stages)
    except ZantaraError as bad:
        found.append(f"It would be refused: {bad}")
    active = service.deployments.filter(state__in=ACTIVE).first()
    if active is not None:
        waits = service.busy_policy == Service.Busy.WAIT
        found.append(f"It would {'wait for' if waits else 'be refused because of'} {active.name}, which is active.")
    return found


#: Why there is only one stage, by what keeps the others away.
WHY_NOT_GRADUAL = {
    "": "",
    "first": "There is no release yet that could have the rest of the traffic: it gets all at once.",
    "no edge": "Without an edge nothing divides the traffic: it gets all at once.",
    "no instances": "No instance is wanted, so there is nobody to divide the traffic among.",
}


def stage_plan(stages: tuple[Stage, ...], policy: RolloutPolicy, *, has_old: bool) -> list[dict[str, Any]]:
    """Each stage with what is requested, what users would really get, and the instances that it needs."""
    why_not = WHY_NOT_GRADUAL[why_skipped(policy, has_old=has_old)]
    return [
        {
            "percent": planned.stage.percent,
            "width": planned.stage.permille / 10,
            "bake": human_seconds(planned.stage.bake_seconds) if planned.stage.bake_seconds else "not watched",
            "effective": planned.stage.percent if planned.effective_permille else "nobody: no instance is wanted",
            "new": planned.new,
            "old": planned.old,
            "note": why_not or _note(planned, policy),
        }
        for planned in planned_stages(stages, policy, has_old=has_old)
    ]


def _note(planned: PlannedStage, policy: RolloutPolicy) -> str:
    if planned.exchanged:
        return f"Instances are exchanged {policy.max_surge} at a time."
    share = planned.stage.permille
    if share < FULL and planned.new * FULL > policy.instances * share:
        return "One more instance than the share needs: the share is the edge's, not the instances'."
    return ""


def backup_words(service: Service) -> str:
    if service.backup_plan is None:
        return "None is taken."
    level = f", proven to level {service.backup_level}" if service.backup_level else ""
    return f"The plan “{service.backup_plan.name}” is run and committed{level} before any traffic moves."


def way_back(release: Release | None, old: Release | None, policy: RolloutPolicy) -> str:
    """What becomes of it if it is bad."""
    if old is None:
        return "There is no release to go back to: a bad one is held, and you are notified."
    if release is not None and release.forward_only:
        return "The release is forward-only: a bad one is held as ROLLBACK_BLOCKED, and you are notified."
    if not policy.rollback_enabled:
        return "Rollback is switched off: a bad release is held, and you are notified."
    return f"If it is bad, everybody is back on {old.version} within seconds; its instances stay until the end."


def judged(policy: RolloutPolicy) -> list[str]:
    """How it is judged, in sentences."""
    found = [f"Errors and requests slower than {policy.slow_request_ms} ms are compared with the old release's."]
    if policy.has_document:
        found.append(f"The health score of every new instance must be {policy.min_health_score} to leave a stage.")
    else:
        found.append("There is no health document, so only readiness tells of the instances' health.")
    many = {"hold": "it is held, and asks you", "abort": "it is rolled back", "promote": "it goes on"}
    found.append(
        f"Too little data: watched {counted(policy.inconclusive_extensions, 'time')} more, then "
        f"{many.get(policy.inconclusive_policy, policy.inconclusive_policy)}."
    )
    return found
