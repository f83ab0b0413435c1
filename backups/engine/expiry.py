"""What goes, in two phases: marked, with a day to undo it; then deleted, confirmed gone, and kept as a tombstone.

Nothing is marked or deleted while a plan is frozen (its newest set is unusually small) or gets no new sets.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from backups import beat, retention
from backups.machines import RECORD
from backups.models import BackupEvent, BackupPlan, BackupRecord, PlanState
from backups.retention import Rules
from controlplane.kernel import clock, transitions
from controlplane.kernel.errors import Refused

from . import deleting, facts, notices
from .events import note

log = structlog.get_logger(__name__)

#: Between the mark and the deletion.
UNDO_TIME = timedelta(days=1)
ACTOR = "retention"


@dataclass(frozen=True)
class Judgement:
    record: BackupRecord
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ExpiryReport:
    """``frozen``: why the plan expires nothing now; empty where it does."""

    deleted: int = 0
    freed_bytes: int = 0
    marked: int = 0
    unmarked: int = 0
    waiting: int = 0
    frozen: str = ""


def preview_retention(plan: BackupPlan, rules: Rules | None = None, now: datetime | None = None) -> list[Judgement]:
    """What these rules (by default the plan's) would keep, and why; newest first. Changes nothing.

    Refused for rules that keep nothing.
    """
    now = now or clock.now()
    records = {record.pk: record for record in facts.kept_records(plan)}
    judged = retention.judge(facts.sets_of(records.values()), rules or facts.rules_of(plan), now, beat.zone_of(plan))
    return [Judgement(records[one.key], one.keep, one.reasons) for one in judged]


def expire_plan(plan: BackupPlan, now: datetime | None = None) -> ExpiryReport:
    """Judge the plan's sets, mark what may go, delete what was marked a day ago and what could not be deleted then."""
    now = now or clock.now()
    held = _freeze_if_unusual(plan, now) or _no_new_sets(plan, now)
    if held:
        deleted, freed, waiting = _delete(plan, now, begun_only=True)
        return ExpiryReport(deleted=deleted, freed_bytes=freed, waiting=waiting, frozen=held)
    marked = unmarked = 0
    for one in preview_retention(plan, now=now):
        if one.record.keep_reasons != list(one.reasons):
            one.record.keep_reasons = list(one.reasons)
            one.record.save(update_fields=["keep_reasons"])
        if not one.keep and one.record.state == "committed":
            marked += mark(one.record, now=now)
        elif one.record.state == "expiring" and any(not reason.startswith("in use by") for reason in one.reasons):
            unmarked += _unmark(one.record, f"kept: {one.reasons[0]}", ACTOR, now)
    deleted, freed, waiting = _delete(plan, now, begun_only=False)
    report = ExpiryReport(deleted=deleted, freed_bytes=freed, marked=marked, unmarked=unmarked, waiting=waiting)
    if deleted or marked or unmarked:
        log.info("retention_applied", plan=plan.name, deleted=deleted, freed_bytes=freed, marked=marked)
    return report


def expire_all(now: datetime | None = None) -> dict[str, ExpiryReport]:
    """Every plan, then what belongs to no plan any more but is being deleted."""
    now = now or clock.now()
    reports: dict[str, ExpiryReport] = {}
    for plan in BackupPlan.objects.select_related("schedule__crontab", "target"):
        try:
            reports[plan.name] = expire_plan(plan, now)
        except Refused as refused:  # an empty policy, written past the form
            log.warning("retention_refused", plan=plan.name, why=str(refused))
    for record in BackupRecord.objects.filter(state="deleting", due_at__lte=now).exclude(plan_name__in=reports):
        deleting.delete_set(record.pk, now=now)
    return reports


def mark(record: BackupRecord, *, now: datetime) -> bool:
    """First phase. Undo until ``expires_at``."""
    return transitions.advance(
        record, "expiring", machine=RECORD, event=BackupEvent, reason="no rule keeps it", actor=ACTOR, now=now,
        changes={"expires_at": now + UNDO_TIME},
    )  # fmt: skip


def _unmark(record: BackupRecord, reason: str, actor: str, now: datetime) -> bool:
    return transitions.advance(
        record, "committed", machine=RECORD, event=BackupEvent, reason=reason, actor=actor, now=now,
        changes={"expires_at": None},
    )  # fmt: skip


def _delete(plan: BackupPlan, now: datetime, *, begun_only: bool) -> tuple[int, int, int]:
    """Number deleted, bytes freed, number that is still to go."""
    if not begun_only:
        ripe = BackupRecord.objects.filter(plan_name=plan.name, state="expiring", expires_at__lte=now)
        for record in ripe:
            with suppress(Refused):  # something began to read it just now: the next turn keeps it
                deleting.begin(record, reason="the day to undo it is over", actor=ACTOR, now=now)
    going = BackupRecord.objects.filter(plan_name=plan.name, state="deleting", due_at__lte=now)
    done = [deleting.delete_set(record.pk, now=now) for record in going.order_by("committed_at")]
    waiting = BackupRecord.objects.filter(plan_name=plan.name, state="deleting").count()
    return sum(freed is not None for freed in done), sum(freed or 0 for freed in done), waiting


# --- acts of people --------------------------------------------------------------------------------------------


def pin(record: BackupRecord, *, actor: str, reason: str, now: datetime | None = None) -> None:
    """Keep it whatever the rules say. Refused where it is gone or going."""
    now = now or clock.now()
    _demand_present(record)
    with transaction.atomic():
        record.pinned_at, record.pinned_by, record.pin_reason = now, actor, reason
        record.save(update_fields=["pinned_at", "pinned_by", "pin_reason"])
        note(record, f"pinned: {reason}", actor=actor, now=now)
        if record.state == "expiring":
            _unmark(record, "pinned", actor, now)


def unpin(record: BackupRecord, *, actor: str, reason: str = "", now: datetime | None = None) -> None:
    """Leave it to the rules again."""
    if record.pinned_at is None:
        raise Refused(f"{record.name} is not pinned.")
    with transaction.atomic():
        record.pinned_at, record.pinned_by, record.pin_reason = None, "", ""
        record.save(update_fields=["pinned_at", "pinned_by", "pin_reason"])
        note(record, f"unpinned: {reason}" if reason else "unpinned", actor=actor, now=now or clock.now())


def undo_expiry(record: BackupRecord, actor: str, now: datetime | None = None) -> None:
    """Take the mark back. The rules would mark it again at their next turn, so it is pinned as well."""
    now = now or clock.now()
    record.refresh_from_db()
    if record.state != "expiring":
        raise Refused(f"{record.name} is {record.state}, not marked for deletion.")
    pin(record, actor=actor, reason="its deletion was undone", now=now)


def delete_now(record: BackupRecord, *, actor: str, reason: str, now: datetime | None = None) -> None:
    """Begin to delete it, past the rules; a worker carries it out. Refused where it must not go."""
    now = now or clock.now()
    record.refresh_from_db()
    if record.state not in ("committed", "expiring", "failed", "cancelled"):
        raise Refused(f"{record.name} is {record.state}: it cannot be deleted.")
    if record.pinned_at is not None:
        raise Refused(f"{record.name} is pinned ({record.pin_reason}).", remedy="Unpin it first.")
    if record.state in ("committed", "expiring") and _is_the_last_good(record):
        raise Refused(
            f"{record.name} is the last restore point of {record.plan_name} that is known to restore.",
            remedy="Make a new one and verify it first, or delete the plan.",
        )
    deleting.begin(record, reason=reason, actor=actor, now=now)
    deleting.send(record)


def unfreeze(plan: BackupPlan, actor: str, reason: str, now: datetime | None = None) -> None:
    """Accept the newest set's size: expiry goes on, and later sets are compared with it and those after it."""
    now = now or clock.now()
    state = PlanState.objects.get_or_create(plan=plan)[0]
    if state.retention_frozen_at is None:
        raise Refused(f"The plan {plan.name} is not frozen.")
    newest = facts.made_until(plan, now).first()
    state.retention_frozen_at, state.retention_frozen_reason = None, ""
    state.retention_baseline_at = newest.committed_at if newest else now
    state.save(update_fields=["retention_frozen_at", "retention_frozen_reason", "retention_baseline_at"])
    if newest is not None:
        note(newest, f"its size was accepted: {reason}", actor=actor, now=now)
    log.info("retention_unfrozen", plan=plan.name, actor=actor)


def _demand_present(record: BackupRecord) -> None:
    record.refresh_from_db()
    if record.state not in ("committed", "expiring"):
        raise Refused(f"{record.name} is {record.state}: only a restore point that exists can be pinned.")


def _is_the_last_good(record: BackupRecord) -> bool:
    if record.plan is None:
        return False
    judged = {one.record.pk: one.reasons for one in preview_retention(record.plan)}
    return any(reason.startswith("last ") for reason in judged.get(record.pk, ()))


# --- when nothing may go --------------------------------------------------------------------------------------------


def _freeze_if_unusual(plan: BackupPlan, now: datetime) -> str:
    """Why the plan is frozen; freezes it where its newest whole set holds unusually little."""
    state = PlanState.objects.get_or_create(plan=plan)[0]
    if state.retention_frozen_at is not None:
        return state.retention_frozen_reason
    newest, reason = _drop(plan, state, now)
    if newest is None or not reason:
        return ""
    with transaction.atomic():
        state.retention_frozen_at, state.retention_frozen_reason = now, reason
        state.save(update_fields=["retention_frozen_at", "retention_frozen_reason"])
        note(newest, f"retention frozen: {reason}", actor=ACTOR, now=now)
        notices.tell_frozen(plan, newest, reason)
    log.warning("retention_frozen", plan=plan.name, backup=newest.name, why=reason)
    return reason


def _drop(plan: BackupPlan, state: PlanState, now: datetime) -> tuple[BackupRecord | None, str]:
    newest_first = facts.made_until(plan, now)[: retention.COMPARED_WITH * 4]
    whole = [record for record in newest_first if not record.only_sources]
    if (since := state.retention_baseline_at) is not None:
        whole = [record for record in whole if record.committed_at is not None and record.committed_at >= since]
    if len(whole) < 2:
        return None, ""
    newest, *before = whole
    return newest, retention.unusual_drop(facts.figures_of(newest), [facts.figures_of(record) for record in before])


def _no_new_sets(plan: BackupPlan, now: datetime) -> str:
    """Sets that are not replaced by newer ones do not go, however old they are."""
    newest = facts.made_until(plan, now).first()
    if newest is None or newest.committed_at is None or not plan.enabled:
        return ""
    age = now - newest.committed_at
    if age <= max(timedelta(hours=plan.rpo_hours), timedelta(days=2)):
        return ""
    return f"The last restore point is {age.days} days old: until there is a new one, none is deleted."


__all__ = [
    "ExpiryReport", "Judgement", "delete_now", "expire_all", "expire_plan", "mark", "pin",
    "preview_retention", "undo_expiry", "unfreeze", "unpin",
]  # fmt: skip
