"""Taking back what an attempt stored: everything below its prefix, COMMIT first."""

from __future__ import annotations

from backups.errors import StorageUnavailable
from backups.manifest import COMMIT
from backups.storage.base import Storage

from .steps import step_reached

#: Objects per call of ``delete``.
_BATCH = 500


def undo_objects(storage: Storage, prefix: str) -> None:
    """Leave nothing below ``prefix``. Idempotent. StorageUnavailable where something is still there.

    Only for a set that is not committed; ``expiry`` deletes those that are.
    """
    step_reached("undo_begun")
    delete_below(storage, prefix)
    step_reached("objects_undone")


def delete_below(storage: Storage, prefix: str) -> int:
    """The bytes that were freed. The COMMIT object goes first: a set half deleted must not look whole."""
    if not prefix:
        return 0
    freed = 0
    commit = f"{prefix}/{COMMIT}"
    if (info := storage.stat(commit)) is not None:
        _delete(storage, [commit])
        freed += info.size
    step_reached("commit_deleted")
    for upload in list(storage.uploads(f"{prefix}/")):
        storage.abort_upload(upload)
    found = list(storage.list(f"{prefix}/"))
    for start in range(0, len(found), _BATCH):
        batch = found[start : start + _BATCH]
        _delete(storage, [info.key for info in batch])
        freed += sum(info.size for info in batch)
    if (left := next(iter(storage.list(f"{prefix}/")), None)) is not None:
        raise StorageUnavailable(f"{left.key} is still in the store.", remedy="It is tried again by itself.")
    return freed


def _delete(storage: Storage, keys: list[str]) -> None:
    if left := storage.delete(keys):
        key, why = next(iter(left.items()))
        raise StorageUnavailable(
            f"{len(left)} objects could not be deleted, {key} among them: {why}", remedy="It is tried again by itself."
        )
