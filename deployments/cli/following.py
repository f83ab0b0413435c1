"""``--wait``: read a deployment until it is over or held. The work is a worker's: ending this ends nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from controlplane.kernel import clock
from deployments.models import Deployment, DeploymentEvent, ServiceState

from . import exits, facts
from .output import DeployOutput, sentences, state_words

POLL_SECONDS = 0.5
#: Ticks come every two seconds. After so long without one, nobody is at work.
NO_TICK_SECONDS = 15.0


def follow(deployment: Deployment, output: DeployOutput, *, timeout: float | None) -> int:
    """Watch it, say what happens, and the exit code for how it ended."""
    events, absence = _Events(deployment.pk), _Absence(deployment, clock.now())
    deadline = None if timeout is None else time.monotonic() + timeout
    with output.screen() as screen:
        while True:
            fresh = facts.deployments().get(pk=deployment.pk)
            for event in events.new():
                output.entry("event", facts.event_as_json(event))
                if event.reason:
                    screen.say(f"{event.at:%H:%M:%S} {state_words(event.to_state)}: {event.reason}")
            if exits.ends_waiting(fresh):
                break
            screen.show(fresh)
            if why := absence.new(clock.now()):
                output.entry("warning", {"text": why})
                output.warn(why)
            if deadline is not None and time.monotonic() >= deadline:
                return _gave_up(fresh, output, timeout or 0.0)
            pause()
    return tell_end(fresh, output)


def tell_end(deployment: Deployment, output: DeployOutput) -> int:
    """How it ended, as the last line; the exit code."""
    code = exits.code_of(deployment)
    shown = facts.deployment_in_full(deployment)
    output.entry("end", {"exit_code": code, "deployment": shown})
    mark = {exits.DONE: "✓", exits.HELD: "‖"}.get(code, "✗")
    output.line(
        f"{mark} {deployment.name}: {deployment.service.name} {deployment.release.version} "
        f"{'is held' if deployment.state == 'paused' else state_words(deployment.state)}"
    )
    for sentence in sentences(shown):
        output.line(f"  {sentence}")
    if deployment.state == "paused":
        output.line(f"  Go on with `manage.py deploy resume {deployment.name} --wait`, or abort it.")
    elif code == exits.BLOCKED:
        output.line(f"  Go on with `manage.py deploy promote-fully {deployment.name}`, or deploy a release that heals.")
    return code


def _gave_up(deployment: Deployment, output: DeployOutput, timeout: float) -> int:
    why = f"{deployment.name} is still {state_words(deployment.state)} after {timeout:g} s; it goes on."
    output.entry("end", {"exit_code": exits.HELD, "text": why, "deployment": facts.deployment_in_full(deployment)})
    output.warn(why)
    return exits.HELD


def pause() -> None:
    """Between two looks."""
    time.sleep(POLL_SECONDS)


class _Events:
    """Events of one deployment, each once."""

    def __init__(self, pk: int) -> None:
        self._pk, self._last = pk, 0

    def new(self) -> Iterator[DeploymentEvent]:
        for event in DeploymentEvent.objects.filter(subject_id=self._pk, pk__gt=self._last).order_by("pk"):
            self._last = event.pk
            yield event


class _Absence:
    """Notices that no worker looks at the service, once for each time that it begins."""

    def __init__(self, deployment: Deployment, since: datetime) -> None:
        self._service, self._since, self._told = deployment.service, since, False

    def new(self, now: datetime) -> str:
        """The sentence to say now; mostly nothing."""
        beat = ServiceState.objects.filter(service=self._service).values_list("lease_heartbeat_at", flat=True).first()
        last = max(self._since, beat) if beat is not None else self._since
        if now - last <= timedelta(seconds=NO_TICK_SECONDS):
            self._told = False
            return ""
        if self._told:
            return ""
        self._told = True
        return (
            f"No worker has looked at {self._service.name} for {(now - last).total_seconds():.0f} s. "
            "Is the stack running? (`make run`, or a worker of the queue “engine” and beat.)"
        )
