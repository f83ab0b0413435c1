"""Uploads that nobody will finish. They cost space, and no list of objects shows them.

An upload of a run whose lease is alive is never touched, whatever its age. One of a run that is over, or whose lease
is dead, is aborted at once: should its worker wake up after all, its next block is refused. One that no record knows
of may be another installation's in the same bucket: it has a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from backups.errors import StorageRefused
from backups.models import BackupRecord, StorageTarget

from .base import Storage, Upload
from .targets import open_target

log = structlog.get_logger(__name__)

STRANGER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Where runs of a target store: those that are alive, and those that are over or were given up."""

    live: frozenset[str]
    dead: frozenset[str]


def prefixes_of(target: StorageTarget, now: datetime) -> Prefixes:
    """The prefixes of this target's records, by whether somebody may still be writing there."""
    rows = BackupRecord.objects.filter(target=target).exclude(prefix="")
    live = frozenset(rows.filter(state="running", lease_expires_at__gt=now).values_list("prefix", flat=True))
    return Prefixes(live, frozenset(rows.values_list("prefix", flat=True)) - live)


def stale_uploads(
    uploads: Iterable[Upload], live_prefixes: Iterable[str], older_than: datetime, *, dead_prefixes: Iterable[str] = ()
) -> Iterator[Upload]:
    """Those below no live prefix that are older, or below a dead prefix whatever their age."""
    live, dead = frozenset(live_prefixes), frozenset(dead_prefixes)
    for upload in uploads:
        folders = _folders(upload.key)
        if not live.isdisjoint(folders):
            continue
        if upload.started_at < older_than or not dead.isdisjoint(folders):
            yield upload


def stale_uploads_of(target: StorageTarget, now: datetime, storage: Storage) -> list[Upload]:
    """The stale uploads in the store of a target."""
    found = list(storage.uploads(""))
    if not found:
        return []
    # Read after the uploads: a run has its prefix in its row before it begins one.
    prefixes = prefixes_of(target, now)
    return list(stale_uploads(found, prefixes.live, now - STRANGER, dead_prefixes=prefixes.dead))


def abort_stale_uploads(
    storage: Storage, live_prefixes: Iterable[str], older_than: datetime, *, dead_prefixes: Iterable[str] = ()
) -> list[Upload]:
    """Abort them; those that were. One that is refused is logged and left; StorageUnavailable passes through."""
    found = list(storage.uploads(""))
    return _abort(storage, stale_uploads(found, live_prefixes, older_than, dead_prefixes=dead_prefixes))


def tidy(target: StorageTarget, now: datetime, *, storage: Storage | None = None) -> list[Upload]:
    """Abort the stale uploads of a target; those that were. Raises what the store raises."""
    storage = storage or open_target(target)
    return _abort(storage, stale_uploads_of(target, now, storage))


def _abort(storage: Storage, uploads: Iterable[Upload]) -> list[Upload]:
    aborted = []
    for upload in uploads:
        try:
            storage.abort_upload(upload)
        except StorageRefused as error:
            log.warning("stale_upload_not_aborted", key=upload.key, reason=str(error))
            continue
        log.info("stale_upload_aborted", key=upload.key, started_at=upload.started_at)
        aborted.append(upload)
    return aborted


def _folders(key: str) -> frozenset[str]:
    """Every folder that the key is in."""
    parts = key.split("/")[:-1]
    return frozenset("/".join(parts[: count + 1]) for count in range(len(parts)))
