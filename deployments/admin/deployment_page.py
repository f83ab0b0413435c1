"""What the page of one deployment shows, and its live part: where it is, why, and what is known by numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import badge, human_seconds, since
from deployments.engine.requests import possible_commands
from deployments.machines import BEFORE_INSTANCES
from deployments.models import Deployment, Instance, LineStop, StepRun

from .instance_rows import instance_rows
from .verdict_words import health_shown, verdict_shown
from .words import DEPLOYMENT_STATES, MEANS, PHASES, STEP_OUTCOMES, docs_link, link, moment, share, state_badge, took

#: Rows of a table; a deployment that needs more has a problem that these show as well.
MOST_ROWS = 60
#: The way of a deployment that goes well. The two states of its stages are one stretch of it.
WAY = ("queued", "fetching", "checking", "building", "backing_up", "starting", "stages", "validating", "finishing")
_STAGES = ("shifting", "baking")
_WITHOUT_PIPELINE = ("queued", "starting", "stages", "validating", "finishing")
_GONE_BACK = ("rolling_back", "rolled_back", "rollback_blocked")


def deployment_page(deployment: Deployment, now: datetime) -> dict[str, Any]:
    """The whole context. Queries do not grow with the rows."""
    return {
        **live_context(deployment, now),
        "live_url": reverse("admin:deployments_deployment_live", args=(deployment.pk,)),
        "points_url": reverse("admin:deployments_deployment_points", args=(deployment.pk,)),
        "has_edge": deployment.policy.get("has_edge", True),
        "slow_ms": deployment.policy.get("slow_request_ms"),
    }


def live_context(deployment: Deployment, now: datetime) -> dict[str, Any]:
    """What changes by itself: seven queries beside the deployment's own, eight before the first instance."""
    events = list(deployment.events.order_by("-at", "-pk")[:MOST_ROWS])
    runs = list(deployment.step_runs.all()[:MOST_ROWS])
    commands = list(deployment.commands.order_by("-created_at", "-pk")[:MOST_ROWS])
    line = LineStop.now()
    return {
        "deployment": deployment,
        "over": deployment.is_over,
        "state": state_badge(deployment.state),
        "sentence": MEANS.get(deployment.state, ""),
        "line": line if line.stopped and not deployment.is_over else None,
        "facts": facts(deployment, now),
        "is_before": deployment.state in BEFORE_INSTANCES,
        "possible": " ".join(possible_commands(deployment)),
        "asked": [one for one in commands if one.applied_at is None and not deployment.is_over],
        "way": way(deployment, [event.to_state for event in events]),
        "stages": stage_rows(deployment),
        "requested": share(deployment.requested_permille),
        "effective": share(deployment.effective_permille),
        "differs": deployment.effective_permille not in (None, deployment.requested_permille),
        "health": health_shown(deployment),
        "verdict": verdict_shown(deployment),
        "instances": instance_rows(_instances(deployment), now),
        "steps": [*_runs(runs, now), *_to_come(deployment, runs)],
        "current_step": _current(runs),
        "events": [_event(event, now) for event in events],
        "commands": [_command(one, now) for one in commands],
        "backup": _backup(deployment),
        "docs": {
            "states": docs_link("what-each-state-means"),
            "verdict": docs_link("how-a-release-is-judged"),
            "blocked": docs_link("when-the-rollback-is-blocked"),
        },
    }


def facts(deployment: Deployment, now: datetime) -> list[tuple[str, object]]:
    service, release = deployment.service, deployment.release
    ended = deployment.finished_at or (None if deployment.is_over else now)
    asked = f", {deployment.get_trigger_display()}{f', {deployment.requested_by}' if deployment.requested_by else ''}"
    old = deployment.from_release
    found: list[tuple[str, object]] = [
        ("Service", link(reverse("admin:deployments_service_change", args=(service.pk,)), service.name)),
        ("Release", link(reverse("admin:deployments_release_change", args=(release.pk,)), release.version)),
        ("In place of", link(reverse("admin:deployments_release_change", args=(old.pk,)), old.version) if old else ""),
        ("Asked for", format_html("{}{}", since(deployment.created_at, now=now), asked)),
        ("Reason", deployment.reason),
        ("Took" if deployment.finished_at else "Running for", took(deployment.started_at, ended)),
        ("All traffic since", moment(deployment.promoted_at) if deployment.promoted_at else ""),
        ("Forward-only", "yes: there is no way back from this release by itself" if release.forward_only else ""),
        ("Pipeline", "skipped: it was built before" if deployment.skips_pipeline else ""),
    ]
    return [(name, shown) for name, shown in found if shown != ""]


# --- where it is -----------------------------------------------------------------------------------


def way(deployment: Deployment, reached: Sequence[str]) -> list[dict[str, Any]]:
    """The stretches of the way with what has become of each: done, where it is now, to come, or where it went wrong.

    ``reached`` are the states that it has been in.
    """
    names = _WITHOUT_PIPELINE if deployment.skips_pipeline else WAY
    state = deployment.resume_to if deployment.state == "paused" and deployment.resume_to else deployment.state
    place = _place(state, names)
    furthest = max((_place(one, names) for one in reached), default=-1)
    wrong = place < 0 and state not in ("succeeded", "waiting")
    at = furthest if wrong else place
    shown = []
    for number, name in enumerate(names):
        if state == "succeeded" or number < at:
            kind = "done"
        elif number == at:
            kind = "failed" if wrong else "back" if deployment.state == "paused" else "running"
        else:
            kind = "waiting"
        shown.append({"name": _way_words(name), "kind": kind, "icon": _way_icon(name, kind)})
    if deployment.state in _GONE_BACK or deployment.is_over:
        text, tone, icon = DEPLOYMENT_STATES[deployment.state]
        kind = {"ok": "done", "bad": "failed", "warn": "back"}.get(tone, "waiting")
        shown.append({"name": text, "kind": kind, "icon": icon})
    return shown


def _place(state: str, names: Sequence[str]) -> int:
    name = "stages" if state in _STAGES else state
    return names.index(name) if name in names else -1


def _way_words(name: str) -> str:
    return "Stages" if name == "stages" else DEPLOYMENT_STATES[name][0]


def _way_icon(name: str, kind: str) -> str:
    icons = {"done": "check_circle", "failed": "error", "waiting": "radio_button_unchecked", "back": "pause_circle"}
    return icons.get(kind) or ("stairs" if name == "stages" else DEPLOYMENT_STATES[name][2])


def stage_rows(deployment: Deployment) -> list[dict[str, Any]]:
    """The frozen plan: of each stage the share that is asked for, how long it is watched, and how far that is."""
    state = deployment.resume_to if deployment.state == "paused" and deployment.resume_to else deployment.state
    passed_all = state in ("succeeded", "finishing", "validating")
    in_stages = state in _STAGES
    rows = []
    for number, stage in enumerate(deployment.stage_plan):
        if passed_all or (in_stages and number < deployment.stage_index):
            kind = "done"
        elif in_stages and number == deployment.stage_index:
            kind = "paused" if deployment.state == "paused" else "now"
        elif state in _GONE_BACK and deployment.stage_since is not None and number <= deployment.stage_index:
            kind = "left" if number == deployment.stage_index else "done"
        else:
            kind = "waiting"
        watched = deployment.observed_seconds if kind in ("now", "paused") else 0.0
        rows.append(
            {
                "index": number,
                "percent": stage.percent,
                "width": max(2.0, stage.permille / 10),
                "bake": f"watched for {human_seconds(stage.bake_seconds)}" if stage.bake_seconds else "not watched",
                "kind": kind,
                "badge": _stage_badge(kind),
                "watched": _watched(watched, stage.bake_seconds) if kind in ("now", "paused") else "",
                "progress": min(100, int(100 * watched / stage.bake_seconds)) if stage.bake_seconds else None,
                "extensions": deployment.extensions if kind in ("now", "paused") else 0,
            }
        )
    return rows


def _watched(seconds: float, bake_seconds: int) -> str:
    if not bake_seconds:
        return ""
    left = max(0.0, bake_seconds - seconds)
    return f"{human_seconds(seconds)} of {human_seconds(bake_seconds)} seen, {human_seconds(left)} left"


def _stage_badge(kind: str) -> SafeString:
    return {
        "done": badge("Done", "ok"),
        "now": badge("Now", "info", "monitor_heart"),
        "paused": badge("Paused here", "warn", "pause_circle"),
        "left": badge("Left from here", "warn", "undo"),
        "waiting": badge("To come", "muted", "radio_button_unchecked"),
    }[kind]


# --- what it consists of ---------------------------------------------------------------------------


def _instances(deployment: Deployment) -> list[Instance]:
    """Those that it started, and the living ones of the release that it replaces."""
    old = Q(release_id=deployment.from_release_id, stopped_at__isnull=True, service_id=deployment.service_id)
    own = Q(deployment=deployment) | Q(
        release_id=deployment.release_id, stopped_at__isnull=True, service_id=deployment.service_id
    )
    found = Instance.objects.filter(own | old if deployment.from_release_id else own).select_related("release")
    return list(found.order_by("stopped_at", "-release_id", "slot", "pk")[:MOST_ROWS])


def _runs(runs: Sequence[StepRun], now: datetime) -> list[dict[str, Any]]:
    return [
        {
            "pk": run.pk,
            "name": run.name,
            "phase": PHASES.get(run.phase, run.phase),
            "attempt": run.attempt if run.attempt > 1 else 0,
            "badge": state_badge(run.outcome if run.finished_at else "", STEP_OUTCOMES),
            "summary": run.summary,
            "took": took(run.started_at, run.finished_at or now),
            "exit_code": run.exit_code if run.outcome in ("failed", "unknown") else None,
            "findings": _findings(run.findings),
            "log_url": reverse("admin:deployments_deployment_step_log", args=(run.deployment_id, run.pk)),
        }
        for run in runs
    ]


def _findings(findings: object) -> list[tuple[str, str]]:
    """The numbers of a step for people: ``{"errors": 3}`` as (errors, 3); what is no number or word is counted."""
    shown: list[tuple[str, str]] = []
    pairs = findings.items() if isinstance(findings, Mapping) else ()
    # PostgreSQL keeps no order of keys: numbers first, by name.
    for name, value in sorted(pairs, key=lambda pair: (isinstance(pair[1], list | tuple | Mapping), str(pair[0]))):
        if isinstance(value, list | tuple):
            words = ", ".join(map(str, value[:5])) + (f" and {len(value) - 5} more" if len(value) > 5 else "")
        elif isinstance(value, Mapping):
            words = ", ".join(f"{key}: {one}" for key, one in list(value.items())[:5])
        elif isinstance(value, bool):
            words = "yes" if value else "no"
        else:
            words = f"{value:g}" if isinstance(value, float) else str(value)
        if words and words != "None":
            shown.append((str(name).replace("_", " "), words[:300]))
    return shown


def _to_come(deployment: Deployment, runs: Sequence[StepRun]) -> list[dict[str, Any]]:
    """Steps of the service that this deployment has not begun yet."""
    if deployment.skips_pipeline or deployment.state not in BEFORE_INSTANCES:
        return []
    begun = {(run.phase, run.name) for run in runs}
    steps = [step for step in deployment.service.steps.filter(enabled=True) if (step.phase, step.name) not in begun]
    order = list(PHASES)
    return [
        {
            "name": step.name,
            "phase": PHASES.get(step.phase, step.phase),
            "badge": state_badge("to_come", STEP_OUTCOMES),
        }
        for step in sorted(steps, key=lambda step: (order.index(step.phase), step.position, step.pk))
    ]


def _current(runs: Sequence[StepRun]) -> int | None:
    """The step whose log is shown: the one that runs, else the last that went wrong, else the last."""
    running = [run.pk for run in runs if run.finished_at is None]
    wrong = [run.pk for run in runs if run.outcome in ("failed", "timed_out", "unknown")]
    found = running or wrong or [run.pk for run in runs]
    return found[-1] if found else None


def _event(event: Any, now: datetime) -> dict[str, Any]:
    moved = event.from_state != event.to_state
    return {
        "when": since(event.at, now=now),
        "state": state_badge(event.to_state) if moved else badge("Note", "muted", "edit_note"),
        "reason": event.reason,
        "actor": event.actor,
    }


def _command(command: Any, now: datetime) -> dict[str, Any]:
    waits = command.applied_at is None
    return {
        "kind": command.get_kind_display(),
        "badge": badge("Waits for the next tick", "info", "schedule") if waits else badge("Carried out", "ok"),
        "actor": command.actor,
        "reason": command.reason,
        "outcome": command.outcome,
        "when": since(command.created_at, now=now),
    }


def _backup(deployment: Deployment) -> dict[str, Any] | None:
    """The backup that was taken before it, if any."""
    record = deployment.backup
    if record is None:
        return None
    return {
        "name": record.name,
        "url": reverse("admin:backups_backuprecord_change", args=(record.pk,)),
        "state": record.state.replace("_", " "),
    }
