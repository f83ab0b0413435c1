"""The rows of instances and what is really there: each tick sees anew, adopts what it finds, and notes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from django.db import IntegrityError, transaction

from controlplane.kernel import clock
from deployments.edge.base import RouteSeen
from deployments.errors import TargetUnavailable
from deployments.models import Instance, Release, Service
from deployments.rollout.types import InstanceView
from deployments.targets import targets
from deployments.targets.base import Seen, Target

from .asking import Said
from .held import Held

log = structlog.get_logger(__name__)

#: So often in a row an instance may not answer in time before it counts as not ready.
MISSES = 2
#: Ready for so long, an instance has not "ended by itself" lately.
FORGIVEN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A row, and what the target sees of it (None: nothing)."""

    row: Instance
    seen: Seen | None

    @property
    def running(self) -> bool:
        return self.seen is not None and self.seen.running


def target_of(service: Service) -> Target:
    return targets.get(service.target_kind)


def name_of(service: Service, release: Release, slot: int) -> str:
    """The same whoever asks: letters, digits, dots and dashes."""
    return f"{service.name}-{release.version.replace('+', '_')}-{slot}"


def find(held: Held) -> list[Standing] | None:
    """Every instance of the service; None where its target does not answer. What is there without a row gets one."""
    service = held.service
    try:
        found = {one.name: one for one in target_of(service).find(service.name, service.target_settings)}
    except TargetUnavailable as error:
        log.warning("target_unavailable", service=service.name, why=error.message)
        return None
    rows = list(
        Instance.objects.filter(service=service, stopped_at__isnull=True).select_related("release", "deployment")
    )
    known = {row.name for row in rows}
    for name in sorted(set(found) - known):
        row = _adopt(held, found[name])
        if row is not None:
            rows.append(row)
    return [Standing(row, found.get(row.name)) for row in rows]


def _adopt(held: Held, seen: Seen) -> Instance | None:
    """A row for what runs without one (a database that was restored, say); None where its release is unknown."""
    release = Release.objects.filter(service=held.service, version=seen.release).first()
    if release is None:
        log.warning("unknown_instance", service=held.service.name, instance=seen.name, release=seen.release)
        return None
    held.fence()
    try:
        with transaction.atomic():
            return Instance.objects.create(
                service=held.service, release=release, slot=seen.slot, name=seen.name,
                created_at=clock.now(), started_at=seen.started_at,
            )  # fmt: skip
    except IntegrityError:
        return None


def note(standing: Sequence[Standing], said: Mapping[str, Said], route: RouteSeen | None, now: datetime) -> None:
    """Write into the rows what was seen of them, and what the edge sees; only what changed is saved."""
    for one in standing:
        before = {name: getattr(one.row, name) for name in _COLUMNS}
        _note_seen(one, now)
        if one.running:
            _note_ready(one, said.get(one.row.name), route, now)
        else:
            _set_unready(one.row, now)
        changed = [name for name in _COLUMNS if before[name] != getattr(one.row, name)]
        if changed:
            one.row.save(update_fields=[*changed, "seen_at"])


_COLUMNS = (
    "host", "port", "handle", "started_at", "ready_since", "was_ready", "exit_code", "oom_killed", "health", "restarts",
    "failure",
)  # fmt: skip


def _note_seen(one: Standing, now: datetime) -> None:
    row, seen = one.row, one.seen
    row.health = dict(row.health)
    if seen is None:
        return
    row.seen_at, row.host, row.port, row.handle = now, seen.host, seen.port, dict(seen.handle)
    row.exit_code, row.started_at = seen.exit_code, seen.started_at or row.started_at
    row.oom_killed = row.oom_killed or seen.oom_killed
    if seen.running:
        row.failure = ""


def _note_ready(one: Standing, said: Said | None, route: RouteSeen | None, now: datetime) -> None:
    row = one.row
    if said is None:
        return
    if said.ready is None:
        misses = int(row.health.get("misses", 0)) + 1
        row.health = {**row.health, "misses": misses, "problem": said.problem}
        if misses >= MISSES:
            _set_unready(row, now)
    elif said.ready and row.ready_since is None and not _is_taken_up(one, route):
        row.health = {**row.health, "misses": 0, "problem": "the edge has not seen it ready yet"}
    elif said.ready:
        row.health = {key: value for key, value in row.health.items() if key not in ("misses", "problem", "unready")}
        row.ready_since, row.was_ready = row.ready_since or now, True
        if (now - row.ready_since).total_seconds() >= FORGIVEN_SECONDS:
            row.restarts = 0
    else:
        row.health = {**row.health, "misses": 0, "problem": said.problem}
        _set_unready(row, now)
    if said.document is not None:
        row.health = {**row.health, "document": _short(said.document), "at": now.isoformat()}


def _is_taken_up(one: Standing, route: RouteSeen | None) -> bool:
    """Whether the edge has found it healthy too: its checks are its own, and traffic that comes before them is refused.
    An edge that does not answer is not waited for, and what was ready stays so when the edge begins anew.
    """
    if route is None or one.seen is None:
        return True
    here = (one.row.name, one.seen.port)
    return any(
        seen.healthy and (seen.name, seen.port) == here for seen in route.endpoints.get(one.row.release.version, ())
    )


def _set_unready(row: Instance, now: datetime) -> None:
    row.ready_since = None
    row.health.setdefault("unready", now.isoformat())


def _short(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a document; the whole may be long."""
    return {name: document[name] for name in ("healthy", "status", "memory", "connections", "performance", "services")
            if name in document}  # fmt: skip


def views(standing: Sequence[Standing], now: datetime) -> tuple[InstanceView, ...]:
    return tuple(_view(one, now) for one in standing)


def _view(one: Standing, now: datetime) -> InstanceView:
    row = one.row

    def since(at: datetime | None) -> float | None:
        return max(0.0, (now - at).total_seconds()) if at is not None else None

    unready = row.health.get("unready")
    return InstanceView(
        name=row.name,
        release=row.release.version,
        slot=row.slot,
        running=one.running,
        ready_seconds=since(row.ready_since) if one.running else None,
        unready_seconds=since(datetime.fromisoformat(unready)) if unready and row.was_ready else None,
        started_seconds=since(row.started_at),
        draining_seconds=since(row.draining_since),
        stopping_seconds=since(row.stopping_since),
        restarts=row.restarts,
        oom_killed=row.oom_killed,
        failure=row.failure,
    )
