"""The tick: lease a service, see how it is, decide, act, see what came of it. Nothing in here waits for anything.

Whatever is interrupted is done again by the next tick, of whichever process; whoever comes back after his lease was
taken over finds that he can write nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import timedelta

import structlog
from django.db.models import Q

from controlplane.kernel import clock, leases
from controlplane.kernel.errors import LeaseLost
from deployments import metrics
from deployments.machines import BEFORE_INSTANCES, DEPLOYMENT
from deployments.models import Deployment, ServiceState
from deployments.pipeline import prune
from deployments.rollout.decide import decide
from deployments.rollout.types import TICK_SECONDS, Effect, KillStep, Notify

from . import moves, publication, sending, steady
from .effects import carry_out
from .held import Held, take, take_deployment
from .observe import Sight, commands_of, look, observations, view_of
from .steps import step_reached

log = structlog.get_logger(__name__)

#: One tick looks at most so often, and decides at most so often between two looks.
MOST_LOOKS, MOST_MOVES = 4, 8
#: No new look after so many seconds: the lease is fifteen, the task's limit twenty.
ENOUGH_SECONDS = 8.0
#: A service at which nothing happens is looked at this often.
QUIET_SECONDS = 4.0


def tick() -> int:
    """Send a tick for every service that is due, and do the first of them here; how many there were."""
    pks = list(due())
    for pk in pks[1:]:
        sending.send_now(pk)
    if pks:
        tick_service(pks[0])
    return len(pks)


def due() -> Iterator[int]:
    """Services whose time has come and that nobody holds, the longest overdue first."""
    now = clock.now()
    when = Q(due_at__isnull=True) | Q(due_at__lte=now) | Q(due_at__gt=now + timedelta(minutes=1))  # the clock was set
    rows = leases.due(ServiceState.objects.filter(when), now).order_by("due_at", "pk")
    yield from rows.values_list("service_id", flat=True)


def tick_service(service_pk: int, *, owner: str = "") -> str:
    """One tick of one service: what became of it, in a word (``taken``, ``lost``, ``quiet``, or a state)."""
    owner = owner or f"{socket.gethostname()}:{os.getpid()}"
    held = take(service_pk, owner=owner, now=clock.now())
    if held is None:
        return "taken"
    step_reached("leased")
    try:
        return _tick(held)
    except LeaseLost as error:
        metrics.fence_rejections.add()
        log.warning("tick_fenced_off", service=held.service.name, why=error.message)
        return "lost"
    finally:
        held.let_go()
        step_reached("released")


def _tick(held: Held) -> str:
    until = clock.monotonic() + ENOUGH_SECONDS
    sight = look(held, asks=True)
    step_reached("observed")
    publication.publish(held, again=publication.has_drifted(held.state, sight.route))
    for number in range(MOST_LOOKS):
        if number:
            sight = look(held, asks=False, judged=sight.judged)
        _note_effective(held, sight)
        effects = _decide(held, sight)
        step_reached("decided")
        changed = carry_out(held, effects, sight.standing or ())
        changed |= publication.publish(held)
        step_reached("carried_out")
        if not changed or clock.monotonic() > until:
            break
    steady.note_facts(held, sight, clock.now())
    busy = held.deployment is not None
    held.write_state(due_at=clock.now() + timedelta(seconds=(TICK_SECONDS if busy else QUIET_SECONDS) - 0.5))
    return held.deployment.state if held.deployment is not None else "quiet"


def _decide(held: Held, sight: Sight) -> list[Effect]:
    """Decide until nothing moves any more; the effects of the last decision are those that count."""
    effects: list[Effect] = []
    if held.state.held:
        return steady.stop_all(sight)
    for _ in range(MOST_MOVES):
        deployment = held.deployment
        if deployment is None or deployment.state in DEPLOYMENT.terminal_states:
            return [*effects, *steady.effects(held, sight)]
        decision = decide(view_of(deployment), observations(held, sight), commands_of(deployment), clock.now())
        # Before the move: whoever dies in between leaves nothing running that nobody would look at any more.
        carry_out(held, (one for one in decision.effects if isinstance(one, KillStep)), ())
        moved = moves.write(held, decision, clock.now())
        effects = [*effects, *(one for one in decision.effects if not isinstance(one, Notify | KillStep))]
        if not moved:
            # One that waits leaves the service to those who keep it as it is.
            return [*effects, *steady.effects(held, sight)] if _runs_nothing(deployment) else effects
        if deployment.state in DEPLOYMENT.terminal_states:
            _set_old_checkouts_aside(held)
            take_deployment(held, clock.now())
    return effects


def _set_old_checkouts_aside(held: Held) -> None:
    """Under the lease: nobody begins with one of them. What cannot be moved now is after the next deployment."""
    try:
        gone = prune.set_aside(held.service)
    except OSError as error:
        log.warning("checkouts_not_removed", service=held.service.name, why=error.strerror)
        return
    if gone:
        sending.send_clear(held.service.pk)


def _runs_nothing(deployment: Deployment) -> bool:
    """Nothing of the new release runs yet: the service is kept as it is."""
    state = deployment.resume_to if deployment.state == "paused" else deployment.state
    return state in BEFORE_INSTANCES


def _note_effective(held: Held, sight: Sight) -> None:
    """What the edge was read back to do, beside what was asked of it."""
    deployment = held.deployment
    if deployment is None or deployment.state == "waiting":
        return
    seen = None
    if sight.route is not None:
        seen = int(sight.route.permille.get(deployment.release.version, 0))
    elif held.service.edge_port is None:
        seen = _by_instances(deployment, sight)
    if seen is not None and seen != deployment.effective_permille:
        held.write_deployment(effective_permille=seen)
    if seen == 0:
        moves.note_detected(held, sight.now)


def _by_instances(deployment: Deployment, sight: Sight) -> int | None:
    """Without an edge the callers come as the instances are."""
    ready = [one.release for one in sight.views or () if one.ready_seconds is not None and not one.leaves]
    return 1000 * ready.count(deployment.release.version) // len(ready) if ready else None
