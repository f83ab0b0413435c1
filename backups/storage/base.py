"""What a store of objects can do. ``tests/backups/contracts`` holds every implementation to it.

Keys are relative, ``/``-separated, and never hold ``..``. Errors are those of ``backups.errors``: a store that does
not answer raises StorageUnavailable, one that says no StorageRefused, an absent object ObjectMissing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Space:
    free_bytes: int
    total_bytes: int


class ObjectWriter(Protocol):
    """One object in the making. Nothing of it can be seen before ``complete``; leaving the context aborts."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes, in order. Raises as soon as the store has refused an earlier block."""
        ...

    def complete(self) -> None:
        """Make the object visible, whole and durable. Idempotent is not asked for."""
        ...

    def abort(self) -> None:
        """Leave nothing behind. Idempotent, also after ``complete`` (then it does nothing)."""
        ...


class Storage(Protocol):
    def open_writer(self, key: str) -> AbstractContextManager[ObjectWriter]: ...

    def put(self, key: str, body: bytes) -> None:
        """A small object (up to 8 MiB), visible only whole, durable when this returns; overwrites."""
        ...

    def open_reader(self, key: str, *, start: int = 0) -> AbstractContextManager[BinaryIO]:
        """The object's bytes from ``start``. A connection that breaks is taken up again where it broke."""
        ...

    def get(self, key: str, *, most: int = 64 * 2**20) -> bytes:
        """A small object whole; StorageRefused above ``most`` bytes."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """None where the store says that there is no such object."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below ``prefix`` (a folder's name, ending in ``/``, or empty), in the order of keys."""
        ...

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete and confirm: key -> why it is still there. Absent ones are no failure."""
        ...

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Unfinished uploads below ``prefix``."""
        ...

    def abort_upload(self, upload: Upload) -> None: ...

    def space(self) -> Space | None:
        """None where there is no such thing as a full store."""
        ...

    def check(self) -> None:
        """Write, read back, list and delete a small object of ours; raises what went wrong."""
        ...
