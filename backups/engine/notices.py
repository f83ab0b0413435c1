"""What people are told about runs, in whose words: one function per kind of message, one key per matter."""

from __future__ import annotations

from datetime import datetime, timedelta

from backups.models import BackupPlan, BackupRecord, StorageTarget
from controlplane.notifications.api import Kind, notify

KINDS = (
    Kind("backup_failed", "Backup failed", "A run failed for good, or succeeded only after a worker was lost."),
    Kind("backup_missed", "Backup missed", "A scheduled run began more than half an hour late, or has not begun."),
    Kind("proof_failed", "Proof failed", "A check or a restore drill found damage or a difference."),
    Kind("proof_overdue", "Proof overdue", "The last proof that a plan restores is older than seven days."),
    Kind("retention_frozen", "Retention frozen", "A backup is unusually small, so its plan deletes nothing."),
    Kind("target_unreachable", "Storage unreachable", "A storage target did not answer, or refused."),
    Kind("restore_failed", "Restore failed", "A restore did not succeed."),
)


def link_to(record: BackupRecord) -> str:
    """The record's page in the admin, as a path."""
    return f"/admin/backups/backuprecord/{record.pk}/change/"


def tell_failed(record: BackupRecord) -> None:
    """A run that is over and left no restore point."""
    notify(
        "backup_failed",
        key=f"backup_failed:{record.name}",
        title=f"{record.name} failed",
        body=f"Plan {record.plan_name}, attempt {record.attempt}: {record.error}",
        link=link_to(record),
    )


def tell_hard_won(record: BackupRecord) -> None:
    """A run that succeeded, but not at its first attempt: somebody should know that a worker died."""
    notify(
        "backup_failed",
        key=f"backup_failed:{record.name}",
        title=f"{record.name} was made at attempt {record.attempt}",
        body=f"Plan {record.plan_name}: the restore point is whole. Its events say what happened to the attempts "
        "before: a worker that was killed or restarted, or a store that did not answer.",
        severity="warning",
        link=link_to(record),
    )


def tell_missed(plan: BackupPlan, scheduled_for: datetime, late: timedelta, *, begun: bool, why: str = "") -> None:
    minutes = round(late.total_seconds() / 60)
    body = why or (
        f"It was begun {minutes} minutes late."
        if begun
        else f"It has not begun after {minutes} minutes: see that a worker of the queue “work” and the scheduler run."
    )
    notify(
        "backup_missed",
        key=f"backup_missed:{plan.name}:{scheduled_for:%Y-%m-%dT%H:%MZ}",
        title=f"The backup of {plan.name} for {scheduled_for:%Y-%m-%d %H:%M} UTC was missed",
        body=body,
        severity="warning" if begun else "error",
        link=f"/admin/backups/backupplan/{plan.pk}/change/",
    )


def tell_silent(plan: BackupPlan, now: datetime) -> None:
    """Once a week, as long as nothing begins its runs and its last set is too old."""
    year, week, _ = now.isocalendar()
    notify(
        "backup_missed",
        key=f"backup_missed:{plan.name}:silent:{year}-W{week:02}",
        title=f"The plan {plan.name} is enabled, and its schedule is not",
        body=f"Its last set is older than {plan.rpo_hours} hours and nothing will begin another: enable its schedule "
        "under Schedules (or save the plan with a time), or disable the plan.",
        severity="warning",
        link=f"/admin/backups/backupplan/{plan.pk}/change/",
    )


def tell_frozen(plan: BackupPlan, record: BackupRecord, reason: str) -> None:
    notify(
        "retention_frozen",
        key=f"retention_frozen:{record.name}",
        title=f"{plan.name} deletes nothing any more: {record.name} is unusually small",
        body=f"{reason} Look at what is missing; if it is as it should be, let the plan expire sets again.",
        severity="warning",
        link=f"/admin/backups/backupplan/{plan.pk}/change/",
    )


def tell_unreachable(target: StorageTarget, message: str, now: datetime) -> None:
    notify(
        "target_unreachable",
        key=f"target_unreachable:{target.name}:{now:%Y-%m-%d}",  # once a day, for as long as it lasts
        title=f"The storage target {target.name} cannot be used",
        body=message,
        link=f"/admin/backups/storagetarget/{target.pk}/change/",
    )


def tell_overdue(plan: BackupPlan, proven_at: datetime | None, now: datetime) -> None:
    when = f"last proven {proven_at:%Y-%m-%d %H:%M} UTC" if proven_at else "never proven"
    notify(
        "proof_overdue",
        # One message a week for as long as it lasts.
        key=f"proof_overdue:{plan.name}:{now:%G-W%V}",
        title=f"Whether {plan.name} restores was {when}",
        body="Run a restore drill, and see that the proof worker runs and can read the drill identity "
        "(ZANTARA_DRILL_IDENTITY_FILE).",
        severity="warning",
        link=f"/admin/backups/backupplan/{plan.pk}/change/",
    )
