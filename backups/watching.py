"""Looking at the stores every five minutes, tidying them, and telling somebody what has gone wrong for long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError

from . import health, standing
from .engine import notices
from .engine.undo import delete_below
from .manifest import MANIFEST
from .models import BackupRecord, StorageTarget, TargetState
from .storage import janitor, open_target
from .storage.base import Storage
from .storage.sets import scan
from .storage.state import check_target

log = structlog.get_logger(__name__)

#: What no record knows is deleted once nothing of it was written for so long: twice the longest run.
ABANDONED_AFTER = timedelta(hours=48)


@dataclass(frozen=True)
class Seen:
    targets: int = 0
    unreachable: int = 0
    swept: int = 0


def watch(now: datetime | None = None) -> Seen:
    """Ask every target, note what it says, tidy those that answer, and send what is to be told."""
    now = now or clock.now()
    unreachable = swept = 0
    for target in StorageTarget.objects.all():
        before = TargetState.objects.filter(target=target).first()
        state = check_target(target, now)
        if not state.reachable:
            unreachable += 1
            # Twice in a row: one lost packet in the night wakes nobody.
            if before is not None and not before.reachable:
                notices.tell_unreachable(target, state.message, now)
            continue
        try:
            swept += tidy(target, now)
        except (ZantaraError, OSError) as error:
            log.warning("store_not_tidied", target=target.name, why=str(error))
    tell_of_old_proofs(now)
    tell_of_silent_plans(now)
    return Seen(StorageTarget.objects.count(), unreachable, swept)


def tidy(target: StorageTarget, now: datetime) -> int:
    """Abort uploads that nobody works on, and sweep; the number of set folders that were swept."""
    storage = open_target(target)
    janitor.tidy(target, now, storage=storage)
    return sweep(storage, target, now)


def sweep(storage: Storage, target: StorageTarget, now: datetime) -> int:
    """Delete what a worker left that lost its run and wrote once more: folders that no record names and that hold no
    set, untouched for two days. A set that is whole is an orphan, which only a person deletes.
    """
    swept = 0
    for found in list(scan(storage)):
        if now - found.newest_at <= ABANDONED_AFTER or (found.committed and storage.stat(f"{found.prefix}/{MANIFEST}")):
            continue
        if BackupRecord.objects.filter(target=target, prefix=found.prefix).exclude(state="deleted").exists():
            continue
        delete_below(storage, found.prefix)
        log.info("abandoned_objects_deleted", target=target.name, prefix=found.prefix, objects=found.objects)
        swept += 1
    return swept


def tell_of_old_proofs(now: datetime) -> None:
    """Plans whose sets were once proven, or exist for long enough that they should have been."""
    plans = standing.plans()
    proofs = standing.proofs([plan.name for plan, _ in plans])
    impossible = health.impossible([plan.name for plan, _ in plans])
    for plan, newest in plans:
        proven_at = proofs[plan.name].verified_at
        since = proven_at or _first_committed(plan.name)
        if newest is None or since is None or plan.name in impossible or now - since <= health.PROOF_WITHIN:
            continue
        notices.tell_overdue(plan, proven_at, now)


def tell_of_silent_plans(now: datetime) -> None:
    """Plans that are enabled while their row of beat is disabled or gone: no run is missed, for none is due."""
    for plan, newest in standing.plans():
        begins = plan.schedule is not None and plan.schedule.enabled
        since = newest.committed_at if newest is not None and newest.committed_at else plan.created_at
        if not begins and now - since > timedelta(hours=plan.rpo_hours):
            notices.tell_silent(plan, now)


def _first_committed(plan_name: str) -> datetime | None:
    records = BackupRecord.objects.filter(plan_name=plan_name, committed_at__isnull=False)
    return records.order_by("committed_at").values_list("committed_at", flat=True).first()
