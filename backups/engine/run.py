"""One attempt at a restore point: capture each source, store it, sign, COMMIT, say so in the row.

    lease → running → each source: producer → store_stream → expectations → manifest → fence → COMMIT → committed

A set is committed only if every wanted source was captured. Until COMMIT is written there is no set; whatever ends an
attempt before that takes back what it stored. A worker that lost its lease writes neither row nor object any more.
"""

from __future__ import annotations

import shutil
from datetime import datetime

import structlog
from django.db.models import Q

from backups import keys
from backups.errors import Cancelled, CaptureFailed, Damaged, StorageUnavailable
from backups.machines import RECORD
from backups.manifest import COMMIT, MANIFEST, Manifest, commit_body, manifest_sha256, set_prefix, sign
from backups.models import BackupEvent, BackupRecord, RestoreRecord
from backups.storage import open_target
from backups.storage.base import Storage
from controlplane.kernel import clock, leases, transitions
from controlplane.kernel.errors import LeaseLost, ZantaraError
from controlplane.kernel.leases import Lease

from . import commit
from .capture import PASSING, Attempt, SourcesFailed, capture_all, make_manifest, say, scratch_root
from .fence import LEASE_SECONDS, Fence, FencedStorage
from .naming import new_set_id
from .progress import Progress
from .steps import step_reached
from .undo import undo_objects

log = structlog.get_logger(__name__)


class _Undecided(ZantaraError):
    """The COMMIT object is in the store, or may be, and the row does not say so yet: the next ticks find out."""


def run_backup(pk: int, *, owner: str, now: datetime | None = None) -> BackupRecord | None:
    """Run a queued restore point to its end, or return None: it is not due, not queued, or another worker has it.

    Never raises for what goes wrong with a backup: the returned row's state and ``error`` say it. A run that is lost
    to another worker is left alone.
    """
    taken = _take(pk, owner, now or clock.now())
    if taken is None:
        return None
    record, lease = taken
    scratch = scratch_root() / str(record.set_id)
    try:
        _attempt(record, lease)
    except LeaseLost as lost:
        log.warning("run_given_up", backup=record.name, why=str(lost))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    record.refresh_from_db()
    return record


def _take(pk: int, owner: str, now: datetime) -> tuple[BackupRecord, Lease] | None:
    """Lease the row and move it to running, unless it is not its turn."""
    waiting = BackupRecord.objects.filter(state="queued", due_at__lte=now)
    lease = leases.acquire(waiting, pk, owner=owner, ttl_seconds=LEASE_SECONDS, now=now)
    if lease is None:
        return None
    step_reached("leased")
    record = BackupRecord.objects.select_related("plan__target", "target").get(pk=pk)
    if _plan_is_busy(record):
        lease.release()  # the next tick sends it again
        return None
    set_id = new_set_id(now)
    moved = transitions.advance(
        record, "running", machine=RECORD, event=BackupEvent, actor=owner, now=now, lease=lease,
        reason=f"attempt {record.attempt + 1}",
        changes={
            "attempt": record.attempt + 1, "started_at": now, "set_id": set_id, "error": "", "warnings": [],
            "prefix": set_prefix(record.plan_name, now, set_id), "progress": {},
        },
    )  # fmt: skip
    if not moved:  # cancelled in between
        lease.release()
        return None
    step_reached("running")
    return record, lease


def _plan_is_busy(record: BackupRecord) -> bool:
    """Runs of one plan take turns, with its restores too: a set taken while its sources are swapped would be half old
    and half new. A restore or deployment waits for its own backup, which therefore does not wait.

    A run whose worker was lost is in nobody's way, however long its store keeps the ticks from judging it.
    """
    if record.trigger in (BackupRecord.Trigger.SAFETY, BackupRecord.Trigger.DEPLOYMENT):
        return False
    alive = Q(lease_expires_at__gt=clock.now())
    running = BackupRecord.objects.filter(alive, plan_name=record.plan_name, state="running").exclude(pk=record.pk)
    restores = RestoreRecord.objects.filter(alive, record__plan_name=record.plan_name, finished_at=None)
    return running.exists() or restores.exists()


def _attempt(record: BackupRecord, lease: Lease) -> None:
    """To the end, whatever it is. Only LeaseLost comes out."""
    prefix = record.prefix  # our own: a row that was read again after a lost race names another attempt's
    with Fence(lease) as fence:
        storage: Storage | None = None
        try:
            storage = FencedStorage(open_target(record.target), fence.confirm)
            attempt = _prepare(record, storage, fence)
            manifest = make_manifest(attempt, capture_all(attempt), clock.now())
            _commit(attempt, manifest)
        except LeaseLost:
            _leave(storage, record, prefix)
            raise
        except _Undecided as undecided:
            log.warning("commit_undecided", backup=record.name, why=str(undecided))
        except Cancelled:
            commit.cancelled(record, lease=lease, now=clock.now(), undone=_undo(storage, prefix))
        except Exception as error:  # a defect of ours or of a source ends the run; it must not leave it running
            if not isinstance(error, ZantaraError):
                log.exception("backup_broke", backup=record.name)
            _end_badly(record, error, lease=lease, undone=_undo(storage, prefix))


def _leave(storage: Storage | None, record: BackupRecord, prefix: str) -> None:
    """The run is another's. As long as its row names our set, the new owner judges that; else it is ours to remove."""
    now = BackupRecord.objects.filter(pk=record.pk).values_list("state", "prefix").first()
    if now is None or now[1] != prefix or now[0] in ("failed", "cancelled"):
        _undo(storage, prefix)


def _end_badly(record: BackupRecord, error: Exception, *, lease: Lease, undone: bool) -> None:
    now, text = clock.now(), say(error)
    passing = isinstance(error, (*PASSING, Damaged))
    if isinstance(error, SourcesFailed):
        # At the first run of all, services may still be starting.
        passing = error.passing or record.trigger == BackupRecord.Trigger.FIRST
    if passing and undone and commit.may_repeat(record):
        commit.again(record, text, lease=lease, now=now)
    else:
        commit.failed(record, text, lease=lease, now=now, undone=undone)


def _undo(storage: Storage | None, prefix: str) -> bool:
    """Whether nothing of the attempt is left in the store. What is left now, later ticks take back."""
    if storage is None:
        return True  # it never came to writing
    try:
        undo_objects(storage, prefix)
    except (ZantaraError, OSError) as error:
        log.warning("objects_left_behind", prefix=prefix, why=str(error))
        return False
    return True


def _prepare(record: BackupRecord, storage: Storage, fence: Fence) -> Attempt:
    plan = record.plan
    if plan is None:
        raise CaptureFailed(f"The plan {record.plan_name} was deleted.")
    sources = list(plan.sources.filter(enabled=True).order_by("name"))
    if record.only_sources:
        sources = [source for source in sources if source.name in record.only_sources]
    if not sources:
        raise CaptureFailed(f"The plan {plan.name} has no enabled source.", remedy="Enable one, or add one.")
    progress = Progress(record, fence, of=len(sources), stall_seconds=plan.stall_seconds)
    fence.on_beat = progress.beat
    return Attempt(record, plan, sources, storage, fence, progress, keys.recipients(plan.extra_recipients))


def _commit(attempt: Attempt, manifest: Manifest) -> None:
    """Signed manifest, read back; fence; COMMIT; row. In this order a crash leaves a whole set or none."""
    record, storage, lease = attempt.record, attempt.storage, attempt.fence.lease
    document = sign(manifest)
    step_reached("manifest_signed")
    attempt.progress.publish()  # the last moment at which a cancellation is heard
    key = f"{record.prefix}/{MANIFEST}"
    storage.put(key, document)
    if storage.get(key) != document:
        raise Damaged(
            f"The store gives back another {key} than it was given.",
            remedy="Test the storage target and the memory of this machine.",
        )
    step_reached("manifest_stored")
    attempt.fence.renew()
    step_reached("commit_fenced")
    _put_commit(storage, f"{record.prefix}/{COMMIT}", commit_body(document))
    step_reached("commit_stored")
    try:
        commit.committed(record, manifest, manifest_sha256(document), lease=lease)
    except LeaseLost:
        raise
    except Exception as error:  # the set exists: what goes wrong now (the database, a time limit) takes nothing back
        raise _Undecided(say(error)) from error


def _put_commit(storage: Storage, key: str, body: bytes) -> None:
    """A store that breaks off may have taken it: then the set exists, and only the store can tell."""
    try:
        storage.put(key, body)
    except StorageUnavailable as error:
        try:
            if storage.stat(key) is not None:
                return
        except StorageUnavailable:
            raise _Undecided(str(error)) from error
        raise
