"""The tasks of backups. A message holds a number only; whoever gets it twice finds the row taken or done.

Queues: ``engine`` for ticks and for what only writes rows, ``work`` for backups and deletions, ``proof`` for what
needs to decrypt. A run is acknowledged when it begins: its lease, not its message, brings it back when its worker dies.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from celery import shared_task
from celery.app.task import Task

from controlplane.kernel.registry import ScheduleSpec

from . import beat
from .engine import due, expiry, recover, sending
from .engine.deleting import delete_set as delete_one
from .engine.run import run_backup as run_one

_DAY_SECONDS = 86400
#: For runs that may take hours; after the soft limit there is time to take back what was stored.
_LONG: dict[str, Any] = {
    "ignore_result": True, "acks_late": False, "reject_on_worker_lost": False,
    "soft_time_limit": _DAY_SECONDS - 600, "time_limit": _DAY_SECONDS,
}  # fmt: skip
_TICK: dict[str, Any] = {"ignore_result": True, "acks_late": False, "soft_time_limit": 100, "time_limit": 110}
_TURN: dict[str, Any] = {"ignore_result": True, "acks_late": False, "soft_time_limit": 3000, "time_limit": 3300}


def _tick(name: str, label: str, description: str, *, every_seconds: int = 60, queue: str = "engine") -> ScheduleSpec:
    return ScheduleSpec(
        name=f"backups.{name}",
        task=f"backups.{name}",
        label=label,
        description=description,
        every_seconds=every_seconds,
        queue=queue,
        expires_seconds=every_seconds - 5,
        editable=False,
    )


TEND = _tick("tend", "Look after backups", "Starts missed runs, takes over from lost workers, cleans up after them.")
TEND_PROOFS = _tick("tend_proofs", "Look after proofs", "Takes over from lost workers of proofs.")
TEND_RESTORES = _tick("tend_restores", "Look after restores", "Brings restores whose worker was lost to their end.")
REQUEST_PROOFS = _tick(
    "request_due_proofs", "Ask for proofs", "Asks for the checks of restore points that are due.", every_seconds=600
)
CHECK_TARGETS = _tick(
    "check_targets", "Look at the stores", "Asks each storage target for space, orphans and stale uploads.",
    every_seconds=300, queue="work",
)  # fmt: skip
EXPIRE = _tick(
    "expire", "Apply retention", "Marks restore points that no rule keeps, deletes those marked a day ago.",
    every_seconds=3600, queue="work",
)  # fmt: skip
SCHEDULES = (TEND, TEND_PROOFS, TEND_RESTORES, REQUEST_PROOFS, CHECK_TARGETS, EXPIRE)


def _owner(task: Any) -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{task.request.id or 'direct'}"


@shared_task(name=beat.RUN_PLAN, bind=True, ignore_result=True, acks_late=False, soft_time_limit=50, time_limit=60)
def run_plan(self: Task[Any, Any], plan_id: int) -> str:
    """Beat's message. Somebody who runs the schedule by hand wants a run now, not that of last night."""
    by_hand = getattr(self.request, "zantara_triggered_by", None) or (self.request.headers or {}).get(
        "zantara_triggered_by", ""
    )
    record = due.run_plan(plan_id, triggered_by=str(by_hand or ""))
    return record.name if record is not None else "nothing to run"


@shared_task(name=beat.DRILL_PLAN, bind=True, ignore_result=True, acks_late=False, soft_time_limit=50, time_limit=60)
def drill_plan(self: Task[Any, Any], plan_id: int) -> str:
    """Beat's message: drill the newest restore point of the plan."""
    from .proving import drill_newest

    proof = drill_newest(plan_id)
    return str(proof) if proof is not None else "nothing to drill"


@shared_task(name=sending.RUN_TASK, bind=True, **_LONG)
def run_backup(self: Task[Any, Any], pk: int) -> str:
    from .proving import after_run

    record = run_one(pk, owner=_owner(self))
    if record is None:
        return "not due, or taken"
    after_run(record)
    return record.state


@shared_task(name=sending.DELETE_TASK, bind=True, **_TURN)
def delete_set(self: Task[Any, Any], pk: int) -> str:
    freed = delete_one(pk, owner=_owner(self))
    return "not deleted" if freed is None else f"{freed} bytes freed"


@shared_task(name="backups.run_proof", bind=True, **_LONG)
def run_proof(self: Task[Any, Any], pk: int) -> str:
    from .proof.run import run_proof as prove

    proof = prove(pk, owner=_owner(self))
    return proof.state if proof is not None else "not due, or taken"


@shared_task(name="backups.run_restore", bind=True, **_LONG)
def run_restore(self: Task[Any, Any], pk: int) -> str:
    from .restore.run import run_restore as restore

    row = restore(pk, owner=_owner(self))
    return row.state if row is not None else "over, or taken"


@shared_task(name="backups.resume_restore", bind=True, **_LONG)
def resume_restore(self: Task[Any, Any], name: str) -> str:
    """A restore of which only the journal is left."""
    from .restore.run import resume_journal

    return "carried on" if resume_journal(name, owner=_owner(self)) is not None else "nothing to do"


@shared_task(name=TEND.task, **_TICK)
def tend() -> str:
    return str(recover.tend_backups())


@shared_task(name=TEND_PROOFS.task, **_TICK)
def tend_proofs() -> None:
    from .proof.tending import tend_proofs as tend_all

    tend_all()


@shared_task(name=TEND_RESTORES.task, **_TICK)
def tend_restores() -> None:
    from .restore.run import tend_restores as tend_all

    tend_all()


@shared_task(name=REQUEST_PROOFS.task, **_TICK)
def request_due_proofs() -> None:
    from .proof.requests import request_due_proofs as request_all

    request_all()


@shared_task(name=CHECK_TARGETS.task, **_TURN)
def check_targets() -> str:
    from .watching import watch

    return str(watch())


@shared_task(name=EXPIRE.task, **_TURN)
def expire() -> str:
    reports = expiry.expire_all()
    freed = sum(report.freed_bytes for report in reports.values())
    return f"{sum(report.deleted for report in reports.values())} deleted, {freed} bytes freed"
