"""The words that only look: status, history, plan, replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from deployments.judge.replay import replay as judge_again
from deployments.judge.types import JudgePolicy, Sample
from deployments.machines import ACTIVE
from deployments.models import Deployment, LineStop
from deployments.rollout.policy import RolloutPolicy

from . import exits, facts
from .following import follow
from .output import DeployOutput, ago, headline, sentences, share, state_words
from .planning import plan_as_json

_STAGE_MARKS = {"done": "✓", "now": "▶", "ahead": "·"}


def status(options: Mapping[str, Any], output: DeployOutput) -> int:
    """One deployment, and its outcome as the exit code; without a name every service."""
    if options["name"] is None:
        return _all_services(output)
    deployment = facts.find_deployment(options["name"])
    if options["wait"]:
        return follow(deployment, output, timeout=options["timeout"])
    shown = facts.deployment_in_full(deployment)
    output.document(shown)
    output.line(headline(deployment))
    rows = [
        (_STAGE_MARKS[stage["standing"]], share(stage["percent"]), f"{stage['bake_seconds']} s")
        for stage in shown["stages"]
    ]
    output.table(("", "stage", "watched for"), rows, "")
    for step in shown["steps"]:
        output.line(f"  {step['phase']}: {step['name']} {step['outcome']} {step['summary']}".rstrip())
    for sentence in sentences(shown):
        output.line(f"  {sentence}")
    if shown["possible_commands"]:
        output.line(f"  possible now: {', '.join(state_words(each) for each in shown['possible_commands'])}")
    return exits.code_of(deployment)


def _all_services(output: DeployOutput) -> int:
    line = LineStop.now()
    active = {one.service_id: one for one in facts.deployments().filter(state__in=(*ACTIVE, "waiting"))}
    services = list(facts.services())
    shown = [
        {
            **facts.service_as_json(service),
            "deployment": facts.deployment_as_json(active[service.pk]) if service.pk in active else None,
        }
        for service in services
    ]
    output.document({"line_stopped": line.reason if line.stopped else None, "services": shown})
    if line.stopped:
        output.line(f"The line is stopped: {line.reason}")
    rows = [
        (one["name"], one["version"] or "–", headline(active[service.pk]) if service.pk in active else "–")
        for one, service in zip(shown, services, strict=True)
    ]
    output.table(("service", "serves", "deployment"), rows, "There is no service yet.")
    return exits.DONE


def history(options: Mapping[str, Any], output: DeployOutput) -> int:
    """Deployments, the newest first."""
    rows = facts.deployments()
    if options["name"] is not None:
        rows = rows.filter(service=facts.find_service(options["name"]))
    found = list(rows[: options["limit"]])
    output.document([facts.deployment_as_json(one) for one in found])
    now = clock.now()
    output.table(
        ("deployment", "service", "version", "state", "when", "by", "why"),
        [
            (
                one.name, one.service.name, one.release.version, state_words(one.state), ago(one.created_at, now),
                one.requested_by or "–", one.error or one.reason,
            )
            for one in found
        ],
        "Nothing was deployed yet.",
    )  # fmt: skip
    return exits.DONE


def plan(options: Mapping[str, Any], output: DeployOutput) -> int:
    """What a deployment would do; REFUSED where one begun now would be."""
    shown = plan_as_json(facts.find_service(options["name"]), options["version"])
    output.document(shown)
    output.line(f"{shown['service']}: {shown['from_version'] or 'nothing'} → {shown['version'] or 'a release'}")
    for step in shown["pipeline"]:
        output.line(f"  {step['phase']}: {step['name']}{'' if step['blocks'] else ' (only warns)'}")
    if shown["backup"]:
        output.line(f"  backup: {shown['backup']['plan']}, proven to L{shown['backup']['level']}")
    rows = [
        (
            share(stage["requested_percent"]), share(stage["effective_percent"]), f"{stage['bake_seconds']} s",
            stage["new_instances"], stage["old_instances"],
        )
        for stage in shown["stages"]
    ]  # fmt: skip
    output.table(("requested", "effective", "watched for", "new", "old instances"), rows, "It has no stage.")
    output.line(f"  if it is bad: {shown['if_bad']}; if that cannot be told: {shown['if_inconclusive']}")
    for obstacle in shown["obstacles"]:
        output.line(f"! {obstacle}")
    return exits.REFUSED if any(text.startswith("Refused") for text in shown["obstacles"]) else exits.DONE


def replay(options: Mapping[str, Any], output: DeployOutput) -> int:
    """Judge what its ticks saw again. FAILED where it would have been taken back."""
    deployment = facts.find_deployment(options["name"])
    samples = [Sample.from_json(data) for data in deployment.observations.values_list("data", flat=True)]
    policy = policy_with(policy_of(deployment), options)
    old = deployment.from_release.version if deployment.from_release else ""
    again = judge_again(samples, policy, new=deployment.release.version, old=old)
    shown = again.to_json()
    if not options["ticks"]:
        shown.pop("ticks")
    output.document({"deployment": deployment.name, "samples": len(samples), "policy": _fields(policy), **shown})
    if options["ticks"]:
        output.table(
            ("at", "share", "verdict", "why"),
            [(f"{t.at:%H:%M:%S}", share(t.permille / 10), t.verdict.outcome, t.verdict.sentence) for t in again.ticks],
            "",
        )
    output.line(f"{deployment.name}, {len(samples)} observations: {again.sentence}")
    return exits.FAILED if again.failure else exits.DONE


def policy_of(deployment: Deployment) -> JudgePolicy:
    """The judge's policy as the deployment froze it."""
    frozen = RolloutPolicy.from_json(deployment.policy)
    return JudgePolicy(error_budget=frozen.error_budget, min_score=frozen.min_health_score)


def policy_with(policy: JudgePolicy, options: Mapping[str, Any]) -> JudgePolicy:
    """The policy with what was given on the command line; Refused for what no test can work with."""
    changes = {name: options[name] for name in JudgePolicy.__dataclass_fields__ if options.get(name) is not None}
    policy = replace(policy, **changes)
    if not 0 < policy.alpha < 1 or policy.margin < 1 or min(policy.error_budget, policy.min_requests) < 1:
        raise Refused(
            "No judge can work with that.", remedy="alpha is between 0 and 1, the margin 1 or more, counts 1 or more."
        )
    return policy


def _fields(policy: JudgePolicy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in JudgePolicy.__dataclass_fields__}
