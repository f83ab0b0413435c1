"""Which sets a store holds, told by the names of its objects alone, and how that fits the rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from backups.models import BackupRecord, StorageTarget

from .base import ObjectInfo, Storage
from .targets import open_target

ROOT = "sets/"
_COMMIT = "COMMIT"
_SET = re.compile(r"(sets/([a-z0-9][a-z0-9._-]{0,62})/\d{4}/\d{2}/([0-9a-f-]{36}))/.+")
#: The states of records whose set is in the store; while one is being deleted, it may be or not.
KEPT, GOING = ("committed", "expiring"), ("deleting",)


@dataclass(frozen=True, slots=True)
class FoundSet:
    """The objects below one prefix. Without a COMMIT they are no set, but what an attempt left."""

    prefix: str
    plan: str
    set_id: str
    committed: bool
    objects: int
    stored_bytes: int
    newest_at: datetime


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How a store and the rows differ. ``leftovers``: objects without COMMIT that no record knows of."""

    orphan_sets: tuple[FoundSet, ...]
    missing_sets: tuple[str, ...]
    leftovers: tuple[FoundSet, ...]


def scan(storage: Storage) -> Iterator[FoundSet]:
    """Every set in the store, and what attempts left, in the order of prefixes. Reads names, no object."""
    prefix, found = "", list[ObjectInfo]()
    for info in storage.list(ROOT):
        match = _SET.fullmatch(info.key)
        if match is None:
            continue  # not ours
        if match[1] != prefix:
            if found:
                yield _found(prefix, found)
            prefix, found = match[1], []
        found.append(info)
    if found:
        yield _found(prefix, found)


def committed_sets(storage: Storage) -> Iterator[FoundSet]:
    """Only those that exist: with a COMMIT."""
    return (found for found in scan(storage) if found.committed)


def reconcile(target: StorageTarget, now: datetime, *, storage: Storage | None = None) -> Reconciled:
    """Compare the store with the rows of ``target``, both ways. Changes nothing.

    The rows are read before and after the store: what is committed or deleted meanwhile is no difference.
    """
    records = BackupRecord.objects.filter(target=target).exclude(prefix="")
    before = set(records.filter(state__in=KEPT, committed_at__lte=now).values_list("prefix", flat=True))
    found = list(scan(storage or open_target(target)))
    rows = dict(records.exclude(state="deleted").values_list("prefix", "state"))
    here = {one.prefix for one in found if one.committed}
    return Reconciled(
        orphan_sets=tuple(one for one in found if one.committed and one.prefix not in rows),
        missing_sets=tuple(sorted(prefix for prefix in before - here if rows.get(prefix) in KEPT)),
        leftovers=tuple(one for one in found if not one.committed and one.prefix not in rows),
    )


def _found(prefix: str, objects: list[ObjectInfo]) -> FoundSet:
    match = _SET.fullmatch(objects[0].key)
    assert match is not None  # noqa: S101  (only matching keys are collected)
    return FoundSet(
        prefix=prefix,
        plan=match[2],
        set_id=match[3],
        committed=any(info.key == f"{prefix}/{_COMMIT}" for info in objects),
        objects=len(objects),
        stored_bytes=sum(info.size for info in objects),
        newest_at=max(info.modified_at for info in objects),
    )
