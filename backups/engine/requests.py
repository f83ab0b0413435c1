"""Asking for a run, and asking that it stop."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Q

from backups import beat
from backups.machines import RECORD
from backups.models import BackupEvent, BackupPlan, BackupRecord
from controlplane.kernel import clock, transitions
from controlplane.kernel.errors import Refused

from . import sending
from .events import note
from .naming import free_name

log = structlog.get_logger(__name__)

_SCHEDULED = (BackupRecord.Trigger.SCHEDULE, BackupRecord.Trigger.MISSED)
#: Runs that begin while another of their plan is going on: a restore or a deployment waits for them.
_AT_ONCE = (BackupRecord.Trigger.SAFETY, BackupRecord.Trigger.DEPLOYMENT)
_TRIES = 20
#: The first run is asked for while the services that it saves are still starting.
FIRST_WAIT = timedelta(seconds=40)


def request_backup(
    plan: BackupPlan,
    *,
    trigger: str,
    requested_by: str = "",
    reason: str = "",
    scheduled_for: datetime | None = None,
    only_sources: Sequence[str] = (),
    now: datetime | None = None,
) -> BackupRecord | None:
    """Queue a run of the plan. None: that scheduled time already has its run, or one of the plan still waits.

    A run with the trigger ``safety`` is not sent to a worker: whoever asks runs it himself with ``run_backup``.
    Refused where the plan has nothing enabled to save, has no source of such a name, or (by hand) runs already.
    """
    now = now or clock.now()
    with transaction.atomic():
        # On PostgreSQL the lock makes two requests take turns; SQLite's transactions do so anyway.
        plan = BackupPlan.objects.select_for_update(of=("self",)).select_related("schedule__crontab").get(pk=plan.pk)
        names = _wanted(plan, only_sources)
        if _is_there(plan, trigger, scheduled_for):
            return None
        if trigger not in (*_SCHEDULED, *_AT_ONCE):
            _refuse_a_second(plan, now)
        record = _create(
            BackupRecord(
                plan=plan,
                plan_name=plan.name,
                target=plan.target,
                trigger=trigger,
                requested_by=requested_by,
                reason=reason,
                scheduled_for=scheduled_for,
                only_sources=names,
                due_at=now + FIRST_WAIT if trigger == BackupRecord.Trigger.FIRST else now,
                created_at=now,
            )
        )
        if record is None:
            return None
        if trigger != BackupRecord.Trigger.SAFETY:
            sending.send_run(record, now=now)
    log.info("backup_requested", backup=record.name, plan=plan.name, trigger=trigger)
    return record


def request_cancel(record: BackupRecord, *, actor: str, reason: str = "", now: datetime | None = None) -> str:
    """Ask a run to stop. ``cancelled``: it had not begun; ``requested``: its worker stops within seconds.

    Refused where there is nothing left to stop.
    """
    now = now or clock.now()
    why = f": {reason}" if reason else ""
    asked = {"cancel_requested_at": now, "cancel_requested_by": actor}
    record.refresh_from_db()
    if record.state == "queued" and transitions.advance(
        record, "cancelled", machine=RECORD, event=BackupEvent, reason=f"cancelled before it began{why}", actor=actor,
        now=now, changes={**asked, "finished_at": now},
    ):  # fmt: skip
        return "cancelled"
    if record.state != "running":
        raise Refused(f"{record.name} is {record.state}: there is nothing to cancel.")
    for name, value in asked.items():
        setattr(record, name, value)
    record.save(update_fields=list(asked))
    note(record, f"asked to stop{why}", actor=actor, now=now)
    return "requested"


def _wanted(plan: BackupPlan, only_sources: Sequence[str]) -> list[str]:
    enabled = set(plan.sources.filter(enabled=True).values_list("name", flat=True))
    if not enabled:
        raise Refused(f"The plan {plan.name} has no enabled source.", remedy="Add or enable one.")
    unknown = sorted(set(only_sources) - enabled)
    if unknown:
        raise Refused(
            f"The plan {plan.name} has no enabled source named {', '.join(unknown)}.",
            remedy=f"It has: {', '.join(sorted(enabled))}.",
        )
    return sorted(set(only_sources)) if set(only_sources) != enabled else []


def _is_there(plan: BackupPlan, trigger: str, scheduled_for: datetime | None) -> bool:
    if scheduled_for is None:
        return False
    records = BackupRecord.objects.filter(plan=plan)
    if records.filter(scheduled_for=scheduled_for).exists():
        return True
    # Runs that take longer than their period would pile up: one that waits stands for those after it.
    return trigger in _SCHEDULED and records.filter(state="queued", trigger__in=_SCHEDULED, attempt=0).exists()


def _refuse_a_second(plan: BackupPlan, now: datetime) -> None:
    alive = Q(state="queued") | Q(state="running", lease_expires_at__gt=now)  # a lost one is in nobody's way
    others = BackupRecord.objects.filter(alive, plan=plan).exclude(trigger__in=_AT_ONCE)
    going = others.order_by("pk").first()
    if going is not None:
        raise Refused(
            f"{going.name} of the plan {plan.name} is {going.state}: a second run would only be in its way.",
            remedy="Wait for it, or cancel it.",
        )


def _create(record: BackupRecord) -> BackupRecord | None:
    """Save the row under the first free name; None where another process has made the run of this time."""
    assert record.plan is not None  # noqa: S101  (for the type checker)
    zone = beat.zone_of(record.plan)
    for _ in range(_TRIES):
        record.name = free_name(record.created_at, zone)
        try:
            with transaction.atomic():
                record.save(force_insert=True)
        except IntegrityError:
            record.pk = None
            same = BackupRecord.objects.filter(plan=record.plan, scheduled_for=record.scheduled_for)
            if record.scheduled_for is not None and same.exists():
                return None
            continue  # somebody took the name
        reason = record.reason or f"requested ({record.trigger})"
        note(record, reason, actor=record.requested_by, now=record.created_at)
        return record
    raise Refused("No free name was found for the run.", remedy="Try again.")
