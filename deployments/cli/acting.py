"""The words that ask for something: start, steer, roll back, stop the line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backups.cli.running import whoami
from deployments.engine import requests
from deployments.models import Command, Deployment

from . import exits, facts
from .following import follow
from .output import DeployOutput, state_words
from .sources import absolute, kind_of, release_for


def start(options: Mapping[str, Any], output: DeployOutput) -> int:
    """Ask for a release to be deployed; with ``--wait`` watch it."""
    service = facts.find_service(options["name"])
    source = options["source"]
    kind = options["source_kind"] or (kind_of(source, ref=options["ref"]) if source else "")
    release = release_for(
        service, options["version"], source=absolute(source, kind), source_kind=kind, ref=options["ref"],
        forward_only=options["forward_only"], created_by=whoami(),
    )  # fmt: skip
    deployment = requests.request_deployment(
        service, release, trigger=Deployment.Trigger.MANUAL, requested_by=whoami(), reason=options["reason"],
        skips_pipeline=options["skip_pipeline"], at_once=options["at_once"],
    )  # fmt: skip
    return _asked(deployment, f"{deployment.name} is asked for: {service.name} {release.version}", options, output)


def steer(options: Mapping[str, Any], output: DeployOutput) -> int:
    """Promote, pause, resume, abort or retry."""
    return _command(options["word"].replace("-", "_"), options, output)


def rollback(options: Mapping[str, Any], output: DeployOutput) -> int:
    """Back to the release before; or ``--to`` any other, all at once and without the pipeline."""
    if not options["to"]:
        return _command(Command.Kind.ROLL_BACK, options, output)
    service = facts.find_service(facts.find_deployment(options["name"]).service.name)
    deployment = requests.request_deployment(
        service, requests.find_release(service, options["to"]), trigger=Deployment.Trigger.ROLLBACK,
        requested_by=whoami(), reason=options["reason"] or f"back to {options['to']}", skips_pipeline=True,
        at_once=True,
    )  # fmt: skip
    return _asked(
        deployment, f"{deployment.name} is asked for: {service.name} back to {options['to']}", options, output
    )


def line(options: Mapping[str, Any], output: DeployOutput) -> int:
    """Stop the line for every service, or let it run again."""
    stopped = options["word"] == "stop-line"
    row = requests.stop_line(stopped=stopped, reason=options["reason"], actor=whoami())
    output.document({"stopped": row.stopped, "reason": row.reason, "changed_by": row.changed_by})
    output.line(
        f"The line is stopped: {row.reason}. Nothing moves but rollbacks." if stopped else "The line runs again."
    )
    return exits.DONE


def _command(kind: str, options: Mapping[str, Any], output: DeployOutput) -> int:
    deployment = facts.find_deployment(options["name"])
    was_over = deployment.is_over
    command = requests.request_command(deployment, kind, actor=whoami(), reason=options["reason"])
    if was_over:
        deployment = facts.find_deployment(command.outcome.removeprefix("asked for "))
        return _asked(deployment, f"{deployment.name} is asked for: {deployment.release}", options, output)
    return _asked(deployment, f"{deployment.name} was asked to {state_words(kind)}", options, output)


def _asked(deployment: Deployment, text: str, options: Mapping[str, Any], output: DeployOutput) -> int:
    deployment = facts.deployments().get(pk=deployment.pk)
    if not options["wait"]:
        output.document(facts.deployment_in_full(deployment))
        output.line(text)
        return exits.DONE
    output.entry("asked", {"deployment": facts.deployment_in_full(deployment)})
    output.line(text)
    return follow(deployment, output, timeout=options["timeout"])
