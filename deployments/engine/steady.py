"""Between deployments: the release that serves has as many healthy instances as are wanted, and the edge is true."""

from __future__ import annotations

from datetime import datetime

from deployments.rollout import fleet
from deployments.rollout.types import Effect, SetSplit, Stop
from deployments.stages import FULL

from . import notices
from .held import Held
from .observe import Sight, edge_view
from .requests import policy_of

#: So long fewer than wanted are ready before people are told.
DEGRADED_SECONDS = 60.0
_SINCE = "degraded_since"


def effects(held: Held, sight: Sight) -> list[Effect]:
    """What keeps the service as it is wanted. Nothing of a service that is switched off is touched."""
    if sight.views is None or not held.service.enabled:
        return []
    state, policy = held.state, policy_of(held.service)
    found: list[Effect] = []
    wanted = {} if state.current is None else {state.current.version: policy.instances}
    split = {} if state.current is None else {state.current.version: FULL}
    if policy.has_edge and state.split != split:
        found.append(SetSplit(split))
    return [*found, *fleet.plan(wanted, sight.views, edge_view(held, sight), policy)]


def stop_all(sight: Sight) -> list[Effect]:
    """A service that is held: everything ends, the edge is left as it is, and nothing is forgotten."""
    return [Stop(one.name) for one in sight.views or () if one.running]


def note_facts(held: Held, sight: Sight, now: datetime) -> None:
    """Say in the service's state what was seen: how many are ready, what the edge does. People are told of a service
    that is short of instances for a while, or whose edge refuses."""
    state = held.state
    ready = [one for one in sight.views or () if one.ready_seconds is not None and not one.leaves]
    current = state.current.version if state.current else ""
    healthy = len([one for one in ready if one.release == current])
    facts = {
        **state.facts,
        "ready": len(ready),
        "healthy": healthy,
        "wanted": held.service.instances if state.current else 0,
        "target": sight.views is not None,
        "edge": None if sight.route is None else dict(sight.route.permille),
    }
    short = bool(current) and healthy < held.service.instances and not state.held and held.deployment is None
    if not short:
        facts.pop(_SINCE, None)
    since = facts.setdefault(_SINCE, now.isoformat()) if short else None
    if facts != state.facts:
        held.write_state(facts=facts)
    if since and (now - datetime.fromisoformat(since)).total_seconds() >= DEGRADED_SECONDS:
        notices.tell_degraded(
            held.service, f"{healthy} of {held.service.instances} instances of {current} are ready.", now
        )
    elif refusal := facts.get("edge_error"):
        notices.tell_degraded(held.service, f"The edge cannot be told: {refusal}", now)
