"""How backups stand, for the health report and the metrics: read in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import OuterRef, Subquery

from controlplane.kernel import clock

from .models import Artifact, BackupPlan, BackupRecord, StorageTarget, TargetState

#: States of a set that is in the store.
PRESENT = ("committed", "expiring")
#: The clocks of two machines may differ by this much.
SKEW = timedelta(minutes=5)


@dataclass
class Proof:
    """``verified_at``: the last time at which a whole set had been read through or restored (L2 or L3).
    ``drills``: artifact -> (when it was last drilled, how many seconds its restore took).
    """

    verified_at: datetime | None = None
    drills: dict[str, tuple[datetime, float]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def plans() -> list[tuple[BackupPlan, BackupRecord | None]]:
    """The enabled plans, each with its newest whole set. One from the future (a clock was wrong) is not the newest."""
    made = BackupRecord.objects.filter(committed_at__lte=clock.now() + SKEW)
    newest = (
        made.filter(plan_name=OuterRef("name"), state__in=PRESENT, only_sources=[])
        .order_by("-committed_at")
        .values("pk")[:1]
    )
    found = list(BackupPlan.objects.filter(enabled=True).annotate(newest=Subquery(newest)))
    records = BackupRecord.objects.in_bulk([plan.newest for plan in found if plan.newest is not None])
    return [(plan, records.get(plan.newest)) for plan in found]


def proofs(names: Sequence[str]) -> dict[str, Proof]:
    """Plan name -> what is proven of its sets."""
    found = {name: Proof() for name in names}
    rows = Artifact.objects.filter(record__plan_name__in=names, record__state__in=PRESENT).values_list(
        "record__plan_name", "record__name", "name", "l2_at", "l3_at", "damaged_at", "restore_seconds"
    )
    sets: dict[tuple[str, str], list[datetime | None]] = {}
    for plan, record, name, l2_at, l3_at, damaged_at, seconds in rows:
        proof = found[plan]
        read_at = None if damaged_at else max((at for at in (l2_at, l3_at) if at), default=None)
        sets.setdefault((plan, record), []).append(read_at)
        if damaged_at is not None:
            proof.damaged.append(f"{name} in {record}")
        if l3_at is not None and seconds is not None and (name not in proof.drills or proof.drills[name][0] < l3_at):
            proof.drills[name] = (l3_at, seconds)
    for (plan, _), times in sets.items():
        if (at := _all_of(times)) is not None:
            proof = found[plan]
            proof.verified_at = max(at, proof.verified_at or at)
    return found


def _all_of(times: Iterable[datetime | None]) -> datetime | None:
    known = list(times)
    return None if None in known else min((at for at in known if at is not None), default=None)


def targets() -> list[tuple[StorageTarget, TargetState | None]]:
    """Every target with what was last seen of it."""
    states = {state.target_id: state for state in TargetState.objects.all()}
    return [(target, states.get(target.pk)) for target in StorageTarget.objects.defer("secret_access_key")]
