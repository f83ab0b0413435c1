"""A restore from its first step to its end, by whichever worker has it.

One rule for a worker that died: whoever takes the restore over goes on where it was, forward or back, and begins that
step anew; a forward step that has taken two workers down is not tried a third time, and the restore goes back. What
failed (and did not just lose its worker) always goes back.

The journal is locked by the working process: on one machine nobody works beside a worker that is merely slow, and the
kernel lets go of the lock when it dies. Across machines the lease of the row decides.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from celery import current_app
from django.db import DatabaseError
from kombu.exceptions import OperationalError

from backups.engine import sending
from backups.engine.fence import LEASE_SECONDS, Fence
from backups.errors import Cancelled, RestoreFailed
from backups.killpoints import step_reached
from backups.machines import RESTORE
from backups.models import RestoreEvent, RestoreRecord
from controlplane.kernel import clock, leases, transitions
from controlplane.kernel.errors import LeaseLost, ZantaraError
from controlplane.kernel.leases import Lease

from . import begin
from . import journal as journals
from .journal import Journal
from .requests import QUEUE, RESUME_TASK, RUN_TASK
from .restoration import Restoration, describe
from .rollback import BACK_STEPS, what_is_amiss
from .rollback import MOST_TRIES as MOST_BACK_TRIES
from .steps import NO_WAY_BACK_AFTER, STEPS
from .tracking import RowTracker, Silent, Tracker

log = structlog.get_logger(__name__)

MOST_TRIES = 2
#: A queued restore whose message nobody took is sent again after this time.
RESEND = timedelta(minutes=1)


def run_restore(
    pk: int,
    *,
    owner: str,
    now: datetime | None = None,
    identity_file: Path | None = None,
    patience_seconds: float | None = None,
) -> RestoreRecord | None:
    """Carry a restore to its end; None: it has ended, or another worker has it, or its journal is elsewhere.

    Never raises for what goes wrong with a restore: the returned row's state and ``error`` say it.
    ``identity_file`` opens the set instead of the drill identity; ``patience_seconds`` is the time to get well.
    """
    now = now or clock.now()
    row = RestoreRecord.objects.select_related("record__target", "record__plan").filter(pk=pk).first()
    if row is None or row.state in RESTORE.terminal_states:
        return None
    with journals.held(row.name) as ours:
        if not ours:
            log.info("restore_is_worked_on", restore=row.name)
            return None
        journal = begin.journal_of(row)
        if journal is None and row.state not in begin.NOTHING_DONE and not begin.was_begun_here(row):
            return None
        lease = _take(row, owner, now)
        if lease is None:
            return None
        try:
            with Fence(lease) as fence:
                journal = journal or begin.new_journal(row, now)
                journal.identity_file = str(identity_file or journal.identity_file)
                _remember_the_turn(journal, row)
                tracker = RowTracker(row, fence, actor=owner)
                _work(_restoration(journal, tracker, owner, row=row, patience_seconds=patience_seconds))
        except LeaseLost as lost:
            log.warning("restore_given_up", restore=row.name, why=str(lost))
        except ZantaraError as error:  # not even a journal could be begun
            _refuse(row, lease, error)
        finally:
            with suppress(LeaseLost, DatabaseError):
                lease.release()
    with suppress(DatabaseError):
        row.refresh_from_db()
    return row


def resume_journal(name: str, *, owner: str, identity_file: Path | None = None) -> Journal | None:
    """Carry on by the journal alone, where the row is gone or says that all is over; None if there is nothing to do."""
    row = RestoreRecord.objects.filter(name=name).exclude(state__in=RESTORE.terminal_states).first()
    if row is not None:
        run_restore(row.pk, owner=owner, identity_file=identity_file)
        return journals.load(name)
    with journals.held(name) as ours:
        journal = journals.load(name)
        if not ours or journal is None or journal.is_finished or journal.mode != "online":
            return None
        if identity_file is not None:
            journal.identity_file = str(identity_file)
        _work(_restoration(journal, Silent(), owner))
        return journal


def tend_restores(now: datetime | None = None) -> int:
    """Send every restore that waits or whose worker was lost to the worker that can decrypt; how many were sent."""
    now, sent = now or clock.now(), 0
    alive = RestoreRecord.objects.exclude(state__in=RESTORE.terminal_states)
    for row in leases.due(alive.filter(due_at__lte=now), now):
        if row.state != "queued" or now - row.created_at >= RESEND:
            sent += sending.send(RUN_TASK, row.pk, queue=QUEUE)
    known = set(alive.values_list("name", flat=True))
    for journal in journals.unfinished():
        if journal.mode == "online" and journal.name not in known:
            sent += _send_resume(journal.name)
    journals.prune(now)
    return sent


def _send_resume(name: str) -> bool:
    try:
        current_app.send_task(RESUME_TASK, args=[name], queue=QUEUE, expires=900, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("message_not_sent", task=RESUME_TASK, restore=name, error=type(error).__name__)
        return False
    return True


def _take(row: RestoreRecord, owner: str, now: datetime) -> Lease | None:
    alive = RestoreRecord.objects.exclude(state__in=RESTORE.terminal_states).filter(due_at__lte=now)
    lease = leases.acquire(alive, row.pk, owner=owner, ttl_seconds=LEASE_SECONDS, now=now)
    if lease is not None:
        row.refresh_from_db(fields=["state", "started_at", "cancel_requested_at"])
    return lease


def _remember_the_turn(journal: Journal, row: RestoreRecord) -> None:
    """The row may know that the restore was turned back where the journal could not be written (a full disk)."""
    if row.state == "rolling_back" and journal.going == "forward" and not journal.is_finished:
        journal.going, journal.state = "back", "rolling_back"
        journal.failure = row.error or "It was being put back when its worker was lost."


def _refuse(row: RestoreRecord, lease: Lease, error: ZantaraError) -> None:
    if row.state not in begin.NOTHING_DONE:
        log.error("restore_cannot_go_on", restore=row.name, error=str(error))
        return
    transitions.advance(
        row, "refused", machine=RESTORE, event=RestoreEvent, reason=str(error), actor=lease.owner, lease=lease,
        changes={"error": str(error), "finished_at": clock.now(), **leases.RELEASED},
    )  # fmt: skip


def _restoration(
    journal: Journal,
    tracker: Tracker,
    owner: str,
    *,
    row: RestoreRecord | None = None,
    patience_seconds: float | None = None,
) -> Restoration:
    return Restoration(
        journal, tracker, identity=begin.identity_of(journal), owner=owner, row=row, patience_seconds=patience_seconds
    )


def _work(restoration: Restoration) -> None:
    """To the end, whatever it is. Only LeaseLost, and a second interruption, come out."""
    journal = restoration.journal
    for entry in journal.steps:
        if entry.status == "running":
            entry.status, entry.detail = "failed", "its worker was lost"
    if not journal.is_finished and journal.going == "forward":
        try:
            _forward(restoration)
        except LeaseLost:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (no defect may leave things half done)
            _turn(restoration, error)
    if not journal.is_finished and journal.going == "back":
        _back(restoration)
    restoration.tracker.finish(journal)
    journals.lock_of(journal.name).unlink(missing_ok=True)  # whoever takes it now finds all done


def _forward(restoration: Restoration) -> None:
    journal = restoration.journal
    for step in STEPS:
        if step.name in journal.done:
            continue
        if NO_WAY_BACK_AFTER not in journal.done:
            restoration.tracker.check()
        journal.tries[step.name] = journal.tries.get(step.name, 0) + 1
        if journal.tries[step.name] > MOST_TRIES:
            raise RestoreFailed(
                f"The step {step.name} lost its worker {MOST_TRIES} times.",
                remedy="See in the worker's log and the kernel's whether memory ran out.",
            )
        journal.state = step.state
        restoration.save()
        restoration.tracker.enter(journal)
        step_reached(f"restore_{step.name}")
        step.run(restoration)
        step_reached(f"restore_{step.name}_done")
        journal.done.append(step.name)
        restoration.save()
    _end(restoration, "done")


def _turn(restoration: Restoration, error: BaseException) -> None:
    """Something went wrong: back, unless nothing was begun yet or all was over."""
    journal = restoration.journal
    if NO_WAY_BACK_AFTER in journal.done:
        log.warning("restore_left_behind", restore=journal.name, error=describe(error))
        _end(restoration, "done")
        return
    log.warning("restore_failed_forward", restore=journal.name, state=journal.state, error=describe(error))
    journal.failure = describe(error)
    journal.going = "back"
    if journal.state in ("queued", "preflight"):
        _end(restoration, "cancelled" if isinstance(error, Cancelled) else "refused")
        return
    journal.state = "rolling_back"
    restoration.save()
    restoration.tracker.enter(journal)
    step_reached("restore_back_begun")


def _back(restoration: Restoration) -> None:
    """Each step gets its chance whatever became of the one before: in the end services must run."""
    journal = restoration.journal
    restoration.tracker.enter(journal)
    for step in BACK_STEPS:
        mark = f"back:{step.name}"
        journal.tries[mark] = journal.tries.get(mark, 0) + 1
        if mark in journal.done or journal.tries[mark] > MOST_BACK_TRIES:
            continue
        restoration.save()
        step_reached(f"restore_back_{step.name}")
        try:
            step.run(restoration)
        except LeaseLost:
            raise
        except Exception:
            log.exception("restore_back_step_broke", restore=journal.name, step=step.name)
        step_reached(f"restore_back_{step.name}_done")
        journal.done.append(mark)
        restoration.save()
    amiss = what_is_amiss(restoration)
    journal.failure = f"{journal.failure} {amiss}".strip()
    _end(restoration, "failed" if amiss or "journal_lost" in journal.tries else "rolled_back")
    step_reached("restore_back_ended")


def _end(restoration: Restoration, state: str) -> None:
    journal = restoration.journal
    journal.state, journal.finished_at = state, clock.now().isoformat()
    restoration.save()
    step_reached("restore_ended")
