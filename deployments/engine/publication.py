"""The edge is told what the rows say, as a whole and in turn: whoever publishes late publishes what is true by then."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings

from deployments.edge import current_edge
from deployments.edge.base import Edge, Endpoint, ReleaseShare, Route, RouteSeen
from deployments.errors import EdgeRefused, EdgeUnavailable
from deployments.models import Instance, Service, ServiceState

from .held import Held
from .steps import step_reached

log = structlog.get_logger(__name__)


def edge() -> Edge:
    return current_edge()


def route_of(service: Service, state: ServiceState, instances: list[Instance]) -> Route:
    """What the edge shall do for one service, of its rows. Instances that stop are no part of it any more."""
    endpoints: dict[str, list[Endpoint]] = {version: [] for version in state.split}
    for row in sorted(instances, key=lambda one: (one.release_id, one.slot)):
        if row.stopping_since is None and row.port is not None and row.host:
            endpoints.setdefault(row.release.version, []).append(
                Endpoint(row.name, row.host, row.port, draining=row.draining_since is not None)
            )
    return Route(
        service=service.name,
        port=service.edge_port or 0,
        prefix=service.route_prefix,
        hosts=tuple(service.route_hosts),
        health_path=service.health_path,
        sticky=service.sticky,
        slow_request_ms=service.slow_request_ms,
        stable=_stable(state),
        releases=tuple(
            ReleaseShare(version, int(state.split.get(version, 0)), tuple(found))
            for version, found in sorted(endpoints.items())
        ),
        generation=state.generation,
    )


def _stable(state: ServiceState) -> str:
    """Who serves what the others cannot: the release that serves everybody, else the one with the largest share."""
    if state.current is not None and state.split.get(state.current.version):
        return state.current.version
    return max(state.split, key=lambda version: state.split[version], default="")


def routes() -> list[Route]:
    """The whole desired state, as the rows have it now."""
    found = []
    states = ServiceState.objects.select_related("service", "current").filter(service__edge_port__isnull=False)
    for state in states.order_by("service__name"):
        rows = Instance.objects.filter(service=state.service, stopped_at__isnull=True).select_related("release")
        found.append(route_of(state.service, state, list(rows)))
    return found


def digest_of(route: Route) -> str:
    """Says whether a service's part has changed; the generation itself is no part of it."""
    parts: Any = [
        route.port, route.prefix, route.hosts, route.health_path, route.sticky, route.slow_request_ms, route.stable,
        [[one.release, one.permille, [[e.name, e.host, e.port, e.draining] for e in one.endpoints]]
         for one in route.releases],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def publish(held: Held, *, again: bool = False) -> bool:
    """Tell the edge, if the rows of this service say something new (or ``again``); True if it was told.

    The generation rises with each change, under the service's lease. What the edge refuses is noted with the service.
    """
    if held.service.edge_port is None:
        return False
    rows = Instance.objects.filter(service=held.service, stopped_at__isnull=True).select_related("release")
    digest = digest_of(route_of(held.service, held.state, list(rows)))
    facts = dict(held.state.facts)
    if facts.get("route") != digest:
        held.write_state(generation=held.state.generation + 1, facts={**facts, "route": digest, "told": False})
    elif facts.get("told") and not again:
        return False
    held.fence()
    refusal = ""
    try:
        with _in_turn():
            edge().apply(routes())
    except EdgeRefused as error:
        refusal = str(error)
        log.warning("edge_refused", service=held.service.name, why=refusal)
    except EdgeUnavailable as error:
        refusal = str(error)
    step_reached("edge_told")
    held.write_state(facts={**held.state.facts, "told": not refusal, "edge_error": refusal})
    return True


def seen_of(service: Service) -> RouteSeen | None:
    """What the edge really does for the service; None where it does not answer, or knows nothing of it."""
    if service.edge_port is None:
        return None
    try:
        return edge().read_back().get(service.name)
    except EdgeUnavailable as error:
        log.info("edge_unavailable", service=service.name, why=error.message)
        return None


def has_drifted(state: ServiceState, seen: RouteSeen | None) -> bool:
    """Whether the edge answers and does something else than it was told."""
    if seen is None:
        return False
    intended = {version: share for version, share in state.split.items() if share}
    done = {version: share for version, share in seen.permille.items() if share}
    return seen.generation < state.generation or done != intended


@contextmanager
def _in_turn() -> Iterator[None]:
    """One publisher at a time on this machine: the rows are read and written out without anybody between."""
    folder = Path(settings.ZANTARA_DATA_DIR) / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "publication.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
