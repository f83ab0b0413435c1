"""Starting what is due: what beat asks for, and what beat missed."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from django.db import models

from backups import beat
from backups.models import BackupPlan, BackupRecord, PlanState
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from . import notices
from .requests import request_backup

log = structlog.get_logger(__name__)

#: Beat has this long to ask for a run before the tick does.
MISSED_AFTER = timedelta(minutes=2)
#: A run that begins later than this, or has not begun by then, is told.
LATE_AFTER = timedelta(minutes=30)
#: Beat's machine and this one may disagree by this much about what time it is.
_SKEW = timedelta(seconds=5)


def run_plan(plan_id: int, *, now: datetime | None = None, triggered_by: str = "") -> BackupRecord | None:
    """What beat's message asks for: the run of the latest due time, once. By hand, it is a run of now.

    None: it has its run already, or the plan or its schedule is disabled or gone.
    """
    now = now or clock.now()
    plan = _plans().filter(pk=plan_id).first()
    if plan is None or not plan.enabled:
        log.info("plan_not_run", plan_id=plan_id, why="disabled" if plan else "deleted")
        return None
    if triggered_by:
        return request_backup(plan, trigger=BackupRecord.Trigger.MANUAL, requested_by=triggered_by, now=now)
    due = beat.due_at(plan, now + _SKEW)
    if due is None:
        return None
    return _start(plan, due, now)


def start_missed(now: datetime) -> list[BackupRecord]:
    """The latest run of each plan that beat has not asked for, once. Earlier ones are past."""
    begun = []
    for plan in _plans().filter(enabled=True, schedule__enabled=True):
        try:
            record = _start_if_missed(plan, now)
        except Exception:  # a plan that breaks keeps neither the others nor the rest of the tick from their turn
            log.exception("missed_run_not_looked_for", plan=plan.name)
            continue
        if record is not None:
            begun.append(record)
    return begun


def _start_if_missed(plan: BackupPlan, now: datetime) -> BackupRecord | None:
    due = beat.due_at(plan, now)
    if due is None or now - due < MISSED_AFTER or due <= _counts_from(plan):
        return None
    if BackupRecord.objects.filter(plan=plan, scheduled_for=due).exists():
        return None
    try:
        return _start(plan, due, now)
    except Refused as refused:  # a plan without sources: there is no run that could fail, and somebody must hear of it
        log.warning("missed_run_not_started", plan=plan.name, why=str(refused))
        if now - due > LATE_AFTER:
            _tell(plan, due, now, begun=False, why=str(refused))
        return None


def tell_of_waiting(now: datetime) -> None:
    """Scheduled runs that no worker has begun half an hour after they were due."""
    waiting = BackupRecord.objects.filter(
        state="queued", attempt=0, scheduled_for__lte=now - LATE_AFTER, created_at__lte=now - LATE_AFTER
    ).select_related("plan")
    for record in waiting:
        if record.plan is not None and record.scheduled_for is not None:
            _tell(record.plan, record.scheduled_for, now, begun=False)


def _start(plan: BackupPlan, due: datetime, now: datetime) -> BackupRecord | None:
    late = now - due
    trigger = BackupRecord.Trigger.MISSED if late >= MISSED_AFTER else BackupRecord.Trigger.SCHEDULE
    record = request_backup(plan, trigger=trigger, scheduled_for=due, requested_by="schedule", now=now)
    if record is not None and late > LATE_AFTER:
        _tell(plan, due, now, begun=True)
    return record


def _tell(plan: BackupPlan, due: datetime, now: datetime, *, begun: bool, why: str = "") -> None:
    state = PlanState.objects.get_or_create(plan=plan)[0]
    if state.missed_noticed_for is not None and state.missed_noticed_for >= due:
        return
    state.missed_noticed_for = due
    state.save(update_fields=["missed_noticed_for"])
    notices.tell_missed(plan, due, now - due, begun=begun, why=why)


def _counts_from(plan: BackupPlan) -> datetime:
    """A plan owes nothing for the time before it was made, or before its times were last changed."""
    changed = plan.schedule.date_changed if plan.schedule is not None else None
    return max(plan.created_at, changed) if changed else plan.created_at


def _plans() -> models.QuerySet[BackupPlan]:
    return BackupPlan.objects.select_related("schedule__crontab", "target")
