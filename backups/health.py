"""Whether backups are well: for ``/health``, the admin's page and ``manage.py backup health``.

Only rows are read; the stores themselves are asked by a task every five minutes (``watching``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db.models import Q

from controlplane.console.formats import human_bytes
from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult

from . import standing
from .models import BackupPlan, BackupRecord, PlanState, ProofRun, StorageTarget, TargetState

#: A store is healthy above this share of free space.
FREE_SHARE = 0.10
#: What was seen of a store is believed this long: three turns of the task.
SEEN_WITHIN = timedelta(minutes=15)
#: A proof is old after seven days; the weekly one needs half a day to be asked for and done.
PROOF_WITHIN = timedelta(days=7, hours=12)
#: A deletion that failed so often is worth a look.
DELETE_ATTEMPTS = 3

Status = Literal["pass", "warn", "fail", "unknown"]
_WORST: tuple[Status, ...] = ("fail", "warn", "unknown", "pass")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``name`` is ``what:of which``."""

    name: str
    status: Status
    summary: str
    remedy: str = ""
    observed: float | None = None
    unit: str = ""


def health_report(now: datetime | None = None) -> dict[str, Any]:
    """``status`` is the worst of ``checks``, those being what is wrong first."""
    now = now or clock.now()
    found = sorted(checks(now), key=lambda check: _WORST.index(check.status))
    return {
        "status": found[0].status if found else "unknown",
        "checked_at": now.isoformat(),
        "counts": dict(Counter(check.status for check in found)),
        "checks": [asdict(check) for check in found],
    }


def checks(now: datetime) -> Iterator[Check]:
    """Everything, in the order: stores, plans, sets."""
    for target, state in standing.targets():
        yield from _target(target, state, now)
    plans = standing.plans()
    if not plans:
        yield Check("plans", "warn", "no plan is enabled: nothing is backed up", "Enable or make a plan.")
    proofs = standing.proofs([plan.name for plan, _ in plans])
    without_identity = impossible([plan.name for plan, _ in plans])
    frozen = dict(
        PlanState.objects.filter(retention_frozen_at__isnull=False).values_list("plan_id", "retention_frozen_reason")
    )
    for plan, newest in plans:
        yield _last_backup(plan, newest, now)
        yield _last_proof(plan, proofs[plan.name], plan.name in without_identity, now)
        yield _compression(plan)
        if plan.pk in frozen:
            yield Check(
                f"retention:{plan.name}", "warn", f"deletes nothing: {frozen[plan.pk]}",
                "See what is missing; if nothing is, let the plan expire sets again.",
            )  # fmt: skip
        for part in proofs[plan.name].damaged:
            yield Check(
                f"damage:{plan.name}", "fail", f"{part} is damaged", "Use another restore point, and look at the store."
            )
    yield from _deletions()


# --- stores --------------------------------------------------------------------------------------------------


def _target(target: StorageTarget, state: TargetState | None, now: datetime) -> Iterator[Check]:
    name = target.name
    what = "the directory can be written" if target.kind == StorageTarget.Kind.LOCAL else "the bucket is reachable"
    if state is None:
        yield Check(f"storage:{name}", "unknown", "has not been looked at yet", "Wait five minutes, or test it.")
        return
    if now - state.checked_at > SEEN_WITHIN:
        yield Check(
            f"storage:{name}", "unknown", f"was last looked at {state.checked_at:%Y-%m-%d %H:%M} UTC",
            "See that beat and a worker of the queue “work” run.",
        )  # fmt: skip
        return
    if not state.reachable:
        yield Check(f"storage:{name}", "fail", state.message or "cannot be used", "Test the target in the admin.")
        return
    yield Check(f"storage:{name}", "pass", what)
    yield from _space(name, state)
    yield _orphans(name, state)
    stale = state.stale_uploads
    yield Check(
        f"uploads:{name}", "warn" if stale else "pass",
        f"{stale} unfinished uploads of runs that are over" if stale else "no unfinished uploads",
        "They are aborted by themselves; see the worker's log if they stay." if stale else "", float(stale),
    )  # fmt: skip


def _space(name: str, state: TargetState) -> Iterator[Check]:
    if state.free_bytes is None or not state.total_bytes:
        return  # a bucket is never full
    share = state.free_bytes / state.total_bytes
    low = share <= FREE_SHARE
    yield Check(
        f"space:{name}", "warn" if low else "pass",
        f"{human_bytes(state.free_bytes)} free ({share:.0%})",
        "Give it more space, or let retention keep less." if low else "", round(share, 4), "share",
    )  # fmt: skip


def _orphans(name: str, state: TargetState) -> Check:
    if state.missing_sets:
        return Check(
            f"orphans:{name}", "fail", f"{state.missing_sets} restore points are not in the store any more",
            "See their records; somebody or something deleted their objects.", float(state.missing_sets),
        )  # fmt: skip
    if state.orphan_sets:
        return Check(
            f"orphans:{name}", "warn", f"{state.orphan_sets} sets in the store have no record here",
            "Run `manage.py backup rebuild-catalogue`, or delete them.", float(state.orphan_sets),
        )  # fmt: skip
    return Check(f"orphans:{name}", "pass", "store and records agree")


# --- plans ---------------------------------------------------------------------------------------------------


def _last_backup(plan: BackupPlan, newest: BackupRecord | None, now: datetime) -> Check:
    name = f"backup:{plan.name}"
    if newest is None or newest.committed_at is None:
        return Check(name, "warn", "there is no restore point yet", "Run the plan, and see its records.")
    age = now - newest.committed_at
    late = age > timedelta(hours=plan.rpo_hours)
    return Check(
        name, "warn" if late else "pass",
        f"the last restore point is {_hours(age)} old" + (f", of {plan.rpo_hours} h allowed" if late else ""),
        "See the plan's last runs." if late else "", round(age.total_seconds()), "s",
    )  # fmt: skip


def _last_proof(plan: BackupPlan, proof: standing.Proof, impossible: bool, now: datetime) -> Check:
    name = f"proof:{plan.name}"
    if impossible:
        return Check(name, "pass", "not possible: no identity here can open the sets")
    if proof.verified_at is None:
        return Check(name, "warn", "no restore point was ever read through or drilled", "Run a restore drill.")
    age = now - proof.verified_at
    late = age > PROOF_WITHIN
    return Check(
        name, "warn" if late else "pass", f"last proven {_hours(age)} ago",
        "Run a restore drill; see that the proof worker runs." if late else "", round(age.total_seconds()), "s",
    )  # fmt: skip


def impossible(names: list[str]) -> set[str]:
    """Plans of which the last proof that would have had to decrypt could not: nobody has the identity, on purpose."""
    found: dict[str, str] = {}
    over = ProofRun.objects.filter(level__gte=ProofRun.Level.L2, record__plan_name__in=names).exclude(
        state__in=("queued", "running", "cancelled")
    )
    for name, state in over.order_by("finished_at", "pk").values_list("record__plan_name", "state"):
        found[name] = state
    return {name for name, state in found.items() if state == "not_possible"}


def _compression(plan: BackupPlan) -> Check:
    if plan.compress:
        return Check(f"compression:{plan.name}", "pass", f"on (zstd level {plan.compression_level})")
    return Check(f"compression:{plan.name}", "warn", "off: sets are stored as large as they are", "Turn it on.")


def _deletions() -> Iterator[Check]:
    stuck = BackupRecord.objects.filter(Q(state="deleting"), delete_attempts__gte=DELETE_ATTEMPTS)
    for name, error in stuck.values_list("name", "delete_error"):
        yield Check("deletion", "warn", f"{name} cannot be deleted: {error}", "It is tried again; look at the store.")


def _hours(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.0f} h" if hours >= 1 else f"{age.total_seconds() / 60:.0f} min"


def probe_backups() -> ProbeResult:
    """A component of ``/health`` that warns: an old backup is no reason to take the service out."""
    wrong = [check for check in checks(clock.now()) if check.status != "pass"]
    if not wrong:
        return ProbeResult("pass", "backups are made, proven, and their stores are well")
    wrong.sort(key=lambda check: _WORST.index(check.status))
    # Everybody may read this: the names alone. What stores and databases said is for the operator's page.
    named = ", ".join(check.name for check in wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    return ProbeResult(
        "unknown" if all(check.status == "unknown" for check in wrong) else "warn",
        f"to be looked at: {named}",
        remedy="See Backup health in the admin, or run `manage.py backup health`.",
        observed=float(len(wrong)),
        unit="findings",
    )


PROBE = Probe(name="backups", label="Backups", run=probe_backups, timeout_seconds=1.0, docs="docs/backups.md#health")
