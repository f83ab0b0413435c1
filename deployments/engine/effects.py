"""Carrying effects out. Each may be done twice, and by another process; each asks the fence first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import structlog

from controlplane.kernel import clock
from controlplane.kernel.errors import LeaseLost, ZantaraError
from deployments.errors import TargetUnavailable
from deployments.models import Instance, Release
from deployments.rollout.types import (
    Drain,
    Effect,
    Ensure,
    Forget,
    KillStep,
    RequestBackup,
    RequestProof,
    RunStep,
    SetSplit,
    Stop,
    Undrain,
)
from deployments.targets.base import InstanceSpec

from . import backing, pipeline_steps
from .held import Held
from .instances import Standing, name_of, target_of
from .pipeline_steps import checkout_of
from .steps import step_reached

log = structlog.get_logger(__name__)

#: Of a release that is being stopped for good, an instance that will not end is killed after this at the latest.
_LEAST_GRACE_SECONDS = 1


def carry_out(held: Held, effects: Iterable[Effect], standing: Sequence[Standing]) -> bool:
    """Do them in their order; True if the edge or the instances are different now. LeaseLost stops at once; a target
    that does not answer leaves its effect to the next tick.
    """
    by_name, changed = {one.row.name: one for one in standing}, False
    for effect in effects:
        try:
            changed |= _do(held, effect, by_name)
        except TargetUnavailable as error:
            log.warning("target_unavailable", service=held.service.name, why=error.message)
    return changed


def _do(held: Held, effect: Effect, standing: dict[str, Standing]) -> bool:
    now = clock.now()
    if isinstance(effect, Ensure):
        return _ensure(held, effect, now)
    if isinstance(effect, Drain | Undrain):
        return _drain(held, standing[effect.name].row, now if isinstance(effect, Drain) else None)
    if isinstance(effect, Stop):
        return _stop(held, standing[effect.name], now)
    if isinstance(effect, Forget):
        return _forget(held, standing[effect.name], now)
    if isinstance(effect, SetSplit):
        held.write_state(split=dict(effect.permille))
        step_reached("split_written")
        return True
    if isinstance(effect, RunStep):
        pipeline_steps.begin(held, effect.phase, effect.position, effect.attempt)
    elif isinstance(effect, KillStep):
        pipeline_steps.kill(held, effect.phase, effect.position, effect.attempt)
    elif isinstance(effect, RequestBackup):
        backing.ask_for_backup(held)
    elif isinstance(effect, RequestProof):
        backing.ask_for_proof(held, effect.level)
    return False


# --- instances -------------------------------------------------------------------------------------------------


def _ensure(held: Held, effect: Ensure, now: datetime) -> bool:
    release = Release.objects.get(service=held.service, version=effect.release)
    deployment = held.deployment if held.deployment is not None and held.deployment.release_id == release.pk else None
    held.fence(now)
    row, new = Instance.objects.get_or_create(
        release=release, slot=effect.slot, stopped_at=None,
        defaults={"service": held.service, "deployment": deployment, "created_at": now,
                  "name": name_of(held.service, release, effect.slot)},
    )  # fmt: skip
    if new:
        step_reached("row_written")
    try:
        seen = target_of(held.service).ensure(spec_of(held, release, row))
    except (TargetUnavailable, LeaseLost):
        raise
    except ZantaraError as error:
        _save(row, failure=str(error)[:300], started_at=now, restarts=row.restarts + (0 if new else 1))
        log.warning("instance_not_started", instance=row.name, why=str(error))
        return False
    step_reached("instance_started")
    _save(
        row, host=seen.host, port=seen.port, handle=dict(seen.handle), started_at=seen.started_at or now, failure="",
        ready_since=None, seen_at=now, restarts=row.restarts + (1 if effect.again and row.handle else 0),
        health={**row.health, "unready": row.health.get("unready", now.isoformat())},
    )  # fmt: skip
    log.info("instance_started", instance=row.name, again=effect.again)
    return True


def spec_of(held: Held, release: Release, row: Instance) -> InstanceSpec:
    """What the target needs. The generation is the lease's: it only ever rises."""
    service = held.service
    image = release.source if release.source_kind == Release.Source.IMAGE else ""
    return InstanceSpec(
        service=service.name,
        release=release.version,
        slot=row.slot,
        name=row.name,
        settings=service.target_settings,
        environ={name: str(value) for name, value in service.environ.items()},
        secret_environ={name: str(value) for name, value in (service.secret_environ or {}).items()},
        checkout=checkout_of(service, release) if not image else None,
        image=image,
        generation=held.lease.token,
    )


def _drain(held: Held, row: Instance, at: datetime | None) -> bool:
    if (row.draining_since is None) == (at is None):
        return False
    held.fence()
    _save(row, draining_since=at)
    step_reached("drain_written")
    return True


def _stop(held: Held, one: Standing, now: datetime) -> bool:
    if one.seen is None:
        return False
    asked_at = one.row.stopping_since
    grace = max(_LEAST_GRACE_SECONDS, held.service.drain_timeout_seconds)
    held.fence(now)
    target_of(held.service).stop(one.seen, held.service.target_settings, grace_seconds=grace, asked_at=asked_at)
    step_reached("stop_asked")
    if asked_at is None:
        _save(one.row, stopping_since=now)
    return asked_at is None


def _forget(held: Held, one: Standing, now: datetime) -> bool:
    held.fence(now)
    if one.seen is not None:
        target_of(held.service).forget(one.seen, held.service.target_settings)
    step_reached("instance_forgotten")
    _save(one.row, stopped_at=now, ready_since=None)
    return True


def _save(row: Instance, **columns: Any) -> None:
    for name, value in columns.items():
        setattr(row, name, value)
    row.save(update_fields=list(columns))
