"""What the tick does every minute, so that nobody ever has to unlock anything.

* a run that beat missed is started, once;
* a due row without a message gets one;
* a run whose worker was lost is judged by the store: a COMMIT with an authentic manifest means it is committed;
  otherwise what it stored is taken back and it is tried again, three times in all;
* what failed and cancelled runs could not take back then is taken back now.

Everything is done under a lease, so two ticks at once do it once; everything may be interrupted and done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from django.db import transaction

from backups import keys
from backups.errors import Damaged, ObjectMissing, StorageRefused, StorageUnavailable
from backups.machines import RECORD
from backups.manifest import Manifest, key_id_of, load_document, load_set, manifest_sha256
from backups.models import BackupEvent, BackupRecord
from backups.storage import open_target
from backups.storage.base import Storage
from controlplane.kernel import clock, leases, transitions
from controlplane.kernel.errors import ConfigurationError, LeaseLost, NotAuthentic, Refused, Unavailable
from controlplane.kernel.leases import Lease

from . import commit, due, sending
from .capture import scratch_root
from .events import note
from .fence import LEASE_SECONDS
from .steps import step_reached
from .undo import undo_objects

T = TypeVar("T")
log = structlog.get_logger(__name__)

OWNER = "recovery"
#: So many rows of each kind in one tick: it shares its queue with others.
_MOST = 20
#: A store that is away for so long will not say any more how a lost run ended.
_GIVE_UP_AFTER = timedelta(hours=24)
#: A safety backup that nobody came for: the restore that asked for it is gone.
_SAFETY_KEPT = timedelta(hours=1)
LOST = "The worker was lost: killed, restarted, or cut off from the database."


@dataclass(frozen=True)
class Tended:
    """How many rows of each kind this tick dealt with."""

    started: int = 0
    sent: int = 0
    committed: int = 0
    repeated: int = 0
    ended: int = 0
    cleaned: int = 0


def tend_backups(now: datetime | None = None) -> Tended:
    """One tick; see the module. What a store that is away holds up is left for the next."""
    now = now or clock.now()
    started = len(due.start_missed(now))
    due.tell_of_waiting(now)
    outcomes = list(_each(_lost(now), lambda pk: recover(pk, now)))
    sent = _send_waiting(now)
    cleaned = sum(_each(_unclean(now), lambda pk: _clean(pk, now)))
    _remove_scratch(now)
    return Tended(
        started=started,
        sent=sent,
        committed=outcomes.count("committed"),
        repeated=outcomes.count("queued"),
        ended=outcomes.count("failed") + outcomes.count("cancelled"),
        cleaned=cleaned,
    )


def _each(keys: list[int], act: Callable[[int], T]) -> Iterator[T]:
    """One row that breaks keeps no other from its turn."""
    for pk in keys:
        try:
            yield act(pk)
        except Exception:
            log.exception("record_not_tended", pk=pk)


# --- rows that wait ------------------------------------------------------------------------------------------


def _send_waiting(now: datetime) -> int:
    waiting = leases.due(BackupRecord.objects.filter(state="queued", due_at__lte=now), now).order_by("due_at")
    sent = 0
    for record in waiting[:200]:
        if record.trigger == BackupRecord.Trigger.SAFETY:
            _drop_forgotten(record, now)
        elif sending.wants_sending(record, now):
            sending.send_run(record, now=now)
            sent += 1
    return sent


def _drop_forgotten(record: BackupRecord, now: datetime) -> None:
    if now - record.created_at >= _SAFETY_KEPT:
        reason = "the restore that asked for it is gone"
        transitions.advance(
            record, "cancelled", machine=RECORD, event=BackupEvent, reason=reason, actor=OWNER, now=now,
            changes={"finished_at": now},
        )  # fmt: skip


# --- runs whose worker was lost ----------------------------------------------------------------------------------


def _lost(now: datetime) -> list[int]:
    running = leases.due(BackupRecord.objects.filter(state="running"), now)
    return list(running.order_by("started_at").values_list("pk", flat=True)[:_MOST])


def recover(pk: int, now: datetime) -> str:
    """Judge one lost run; the state it is in afterwards. Taking the lease is what stops its worker from writing."""
    rows = BackupRecord.objects.filter(state="running")
    lease = leases.acquire(rows, pk, owner=OWNER, ttl_seconds=LEASE_SECONDS, now=now)
    if lease is None:
        return ""
    record = BackupRecord.objects.select_related("target", "plan").get(pk=pk)
    log.warning("worker_lost", backup=record.name, attempt=record.attempt)
    try:
        _judge(record, lease, now)
    except LeaseLost:
        return ""
    except (Unavailable, ConfigurationError, StorageRefused) as error:
        log.warning("recovery_waits", backup=record.name, why=str(error))
        _wait_for_the_store(record, lease, now)
    return record.state


def _judge(record: BackupRecord, lease: Lease, now: datetime) -> None:
    storage = open_target(record.target)
    found = committed_set(storage, record)
    step_reached("recovery_judged")
    if found is not None:
        manifest, digest = found
        commit.committed(record, manifest, digest, lease=lease, reason=f"{LOST} The set is whole.")
        return
    lease.renew(now)  # whoever was slow to judge must not undo what another has found to be whole
    undo_objects(storage, record.prefix)
    _end(record, lease, now, undone=True)


def committed_set(storage: Storage, record: BackupRecord) -> tuple[Manifest, str] | None:
    """The manifest of the record's set and its hash, if the store holds a COMMIT for it that is ours.

    Unavailable where it is signed by a key that this process does not know: that is no reason to delete it.
    """
    try:
        document = load_document(storage, record.prefix)
        if (key := key_id_of(document)) not in (trusted := keys.trusted_keys()):
            raise Unavailable(
                f"The set of {record.name} is signed by the key {key}, which is not known to this process.",
                remedy="Give it the signing key, or name its public half in ZANTARA_MANIFEST_TRUSTED_KEY_FILES.",
            )
        return load_set(storage, record.prefix, trusted), manifest_sha256(document)
    except ObjectMissing:
        return None
    except (Damaged, NotAuthentic, Refused) as error:
        log.error("commit_not_valid", backup=record.name, why=str(error))
        return None


def _end(record: BackupRecord, lease: Lease, now: datetime, *, undone: bool) -> None:
    if record.cancel_requested_at is not None:
        commit.cancelled(record, lease=lease, now=now, undone=undone)
    elif undone and commit.may_repeat(record):
        commit.again(record, LOST, lease=lease, now=now)
    else:
        commit.failed(record, f"{LOST} Attempt {record.attempt} was the last.", lease=lease, now=now, undone=undone)


def _wait_for_the_store(record: BackupRecord, lease: Lease, now: datetime) -> None:
    begun = record.started_at or record.created_at
    if record.cancel_requested_at is not None or now - begun >= _GIVE_UP_AFTER:
        _end(record, lease, now, undone=False)
    else:
        lease.release()  # the next tick looks again; the lost worker's token stays worthless


# --- what was left behind --------------------------------------------------------------------------------------


def _unclean(now: datetime) -> list[int]:
    over = BackupRecord.objects.filter(state__in=("failed", "cancelled")).exclude(prefix="")
    return list(leases.due(over, now).order_by("finished_at").values_list("pk", flat=True)[:_MOST])


def _clean(pk: int, now: datetime) -> bool:
    rows = BackupRecord.objects.filter(state__in=("failed", "cancelled")).exclude(prefix="")
    lease = leases.acquire(rows, pk, owner=OWNER, ttl_seconds=LEASE_SECONDS, now=now)
    if lease is None:
        return False
    record = BackupRecord.objects.select_related("target").get(pk=pk)
    try:
        storage = open_target(record.target)
        whole = committed_set(storage, record) is not None
        if not whole:
            undo_objects(storage, record.prefix)
    except (StorageUnavailable, StorageRefused, ConfigurationError, Unavailable) as error:
        log.warning("objects_left_behind", backup=record.name, prefix=record.prefix, why=str(error))
        lease.release()
        return False
    # A run that was given up while its store was away may have committed all the same: such a set stays.
    done = "its set is whole and stays: `manage.py backup rebuild-catalogue` finds it" if whole else "is deleted"
    with transaction.atomic():
        lease.guarded_update(prefix="")
        note(record, done if whole else f"what it had stored {done}", actor=OWNER, now=now)
    lease.release()
    return True


def _remove_scratch(now: datetime) -> None:
    """Directories of attempts that no worker is at any more; a young one may be about to be named by a row."""
    root = scratch_root()
    if not root.is_dir():
        return
    held = {str(pk) for pk in BackupRecord.objects.filter(state="running").values_list("set_id", flat=True)}
    for path in root.iterdir():
        if path.name not in held and now.timestamp() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)


__all__ = ["OWNER", "Tended", "committed_set", "recover", "tend_backups"]
