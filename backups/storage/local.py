"""A store in a directory: objects are files, and a file has its name only once it is whole and on the disk."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from backups.errors import ObjectMissing, StorageRefused, StorageUnavailable
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused, ZantaraError

from .base import ObjectInfo, Space, Upload
from .names import checked_key, checked_prefix, is_key
from .selftest import round_trip

#: An empty file in the root of a store that was written to. Where sets are known to be and the mark is not, the
#: directory is not the store but, say, the mount point of a disk that is away: nothing is missing, nothing is known.
MARK = ".zantara-store"
_TEMPORARY = ".upload"
_READ_BYTES = 2**20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


class LocalStorage:
    """The store in ``root``. ``marked``: sets of ours are known to be here, so the mark must be, too."""

    def __init__(self, root: Path, *, marked: bool = False) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100  (not resolved: a symbolic link may be moved)
        self._marked = marked

    def __repr__(self) -> str:
        return f"LocalStorage({str(self.root)!r})"

    def open_writer(self, key: str) -> LocalWriter:
        self._present()
        return LocalWriter(self, key)

    def put(self, key: str, body: bytes) -> None:
        with self.open_writer(key) as writer:
            writer.write(body)
            writer.complete()

    @contextmanager
    def open_reader(self, key: str, *, start: int = 0) -> Iterator[BinaryIO]:
        with io.BufferedReader(self._open(key), _READ_BYTES) as reader:
            reader.seek(start)
            yield cast("BinaryIO", reader)

    def get(self, key: str, *, most: int = 64 * 2**20) -> bytes:
        with io.BufferedReader(self._open(key), _READ_BYTES) as reader:
            size = os.fstat(reader.fileno()).st_size
            if size > most:
                raise StorageRefused(
                    f"{key} has {size} bytes, and at most {most} were expected.", remedy="Look at what it is."
                )
            return reader.read()

    def stat(self, key: str) -> ObjectInfo | None:
        path = self.path_of(key)
        with self.spoken(key):
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            self._present()  # only of a store that is there can it be said that it lacks an object
            return None
        return _info(key, found)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self.path_of(checked_prefix(prefix)[:-1]) if prefix else self.root
        self._present()
        for key, found in self._walk(folder, prefix):
            if is_key(key):
                yield _info(key, found)

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        self._present()
        kept: dict[str, str] = {}
        for key, path in [(key, self.path_of(key)) for key in keys]:
            try:
                with self.spoken(key):
                    path.unlink(missing_ok=True)
                    if os.path.lexists(path):
                        kept[key] = "It is still there after it was deleted."
                    self.prune(path.parent)
            except StorageRefused as refusal:
                kept[key] = str(refusal)
        return kept

    def uploads(self, prefix: str) -> Iterator[Upload]:
        folder = self.path_of(checked_prefix(prefix)[:-1]) if prefix else self.root
        self._present()
        for key, _ in self._walk(folder, prefix):
            upload = _upload_of(key)
            if upload is not None:
                yield upload

    def abort_upload(self, upload: Upload) -> None:
        path = self.path_of(upload.key)
        with self.spoken(upload.key):
            (path.parent / _temporary_name(path.name, upload.upload_id)).unlink(missing_ok=True)
            self.prune(path.parent)

    def space(self) -> Space | None:
        self._present()
        with self.spoken("the directory"):
            found = os.statvfs(self.root)
        return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def check(self) -> None:
        self._present()
        round_trip(self)

    def prune(self, folder: Path) -> None:
        """Remove the folders that have become empty, from this one upwards, and make it durable."""
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:  # not empty, or somebody else has removed it
                break
            folder = folder.parent
        with contextlib.suppress(FileNotFoundError):
            _sync_folder(folder)

    def mark(self) -> None:
        """Note that this directory is a store. Done with the first write."""
        if not (self.root / MARK).exists():
            with self.spoken(MARK):
                os.close(os.open(self.root / MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _open(self, key: str) -> _Reading:
        path = self.path_of(key)
        with self.spoken(key):
            try:
                return _Reading(path, self, key)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._present()
                raise ObjectMissing(f"There is no {key} in {self.root}.", remedy="See whether it was moved.") from None

    def path_of(self, key: str) -> Path:
        path = self.root / checked_key(key)
        # A symbolic link inside the store could lead out of it; one to the store itself is the operator's own.
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise Refused(f"{key} leads out of {self.root} by a symbolic link.", remedy="Remove the link.")
        return path

    def _present(self) -> None:
        with self.spoken("the directory"):
            marked, there = (self.root / MARK).exists(), self.root.is_dir()
        if self._marked and not marked:
            raise StorageUnavailable(
                f"{self.root} holds sets, but its mark {MARK} is not there.",
                remedy=f"Mount its disk; if this is the right directory, create an empty {MARK} in it.",
            )
        if not there:
            raise StorageRefused(
                f"There is no directory {self.root}.", remedy="Create it, or mount the disk that it is on."
            )

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Every file below, in the order of keys: a folder sorts as its name with the slash does."""
        with self.spoken(prefix or "the directory"):
            try:
                with os.scandir(folder) as entries:
                    found = sorted((e.name + "/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in entries)
            except (FileNotFoundError, NotADirectoryError):
                return
        for name, entry in found:
            if name.endswith("/"):
                yield from self._walk(Path(entry.path), prefix + name)
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                seen = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(seen.st_mode):
                    yield prefix + name, seen

    @contextmanager
    def spoken(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.told(error, what) from error

    def told(self, error: OSError, what: str) -> ZantaraError:
        """The error in our words: no space and no right are answers, the rest says nothing of what is stored."""
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _NO_SPACE:
            return StorageRefused(
                f"There is no space left in {self.root} for {what} ({reason}).",
                remedy="Free some, enlarge the disk or quota, or let the plan keep less.",
            )
        if error.errno in _NO_RIGHT:
            return StorageRefused(
                f"{self.root} may not be used for {what} ({reason}).",
                remedy="Let this process's user own the directory, and mount its disk for writing.",
            )
        return StorageUnavailable(
            f"{self.root} failed with {what} ({reason}).", remedy="See the kernel's log and the state of the disk."
        )


class LocalWriter(AbstractContextManager["LocalWriter"]):
    """A temporary file beside the object, renamed once it is on the disk. ``abort`` may come from another thread."""

    def __init__(self, storage: LocalStorage, key: str) -> None:
        self._storage, self._key = storage, checked_key(key)
        self._upload_id = f"{int(clock.now().timestamp()):x}-{secrets.token_hex(6)}"
        self._lock = threading.Lock()
        self._written, self._failed = 0, False
        with storage.spoken(key):
            self._path, self._temporary, self._descriptor = self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data).cast("B")
        with self._lock, self._working() as descriptor:
            while rest:
                count = os.write(descriptor, rest)
                self._written += count
                rest = rest[count:]

    def complete(self) -> None:
        with self._lock:
            with self._working() as descriptor:
                os.fsync(descriptor)
                size = os.fstat(descriptor).st_size
                if size != self._written:
                    raise StorageUnavailable(
                        f"{self._key} has {size} bytes on the disk and {self._written} were written.",
                        remedy="See the state of the disk; the set will be tried again.",
                    )
                self._temporary.replace(self._path)
                _sync_folder(self._path.parent)
            self._close()

    def abort(self) -> None:
        with self._lock:
            if self._descriptor is None:
                return
            self._close()
            with contextlib.suppress(OSError):  # what cannot be removed is found by the janitor
                self._temporary.unlink(missing_ok=True)
                self._storage.prune(self._path.parent)

    def _begin(self) -> tuple[Path, Path, int | None]:
        self._storage.mark()
        for last in (False, False, False, False, True):
            path = self._storage.path_of(self._key)
            temporary = path.parent / _temporary_name(path.name, self._upload_id)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                _make_folders(path.parent, self._storage.root)
                return path, temporary, os.open(temporary, flags, 0o600)
            except FileNotFoundError:  # a deletion has just removed the folder, as it was empty
                if last:
                    raise
        raise AssertionError("not reached")

    @contextmanager
    def _working(self) -> Iterator[int]:
        """The open file; after any failure it is of no use, as nobody knows what of it is on the disk."""
        if self._descriptor is None or self._failed:
            raise StorageUnavailable(f"{self._key} was completed, given up or failed before.", remedy="Begin it anew.")
        self._failed = True
        with self._storage.spoken(self._key):
            yield self._descriptor
        self._failed = False

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _Reading(io.FileIO):
    """A file whose read errors are ours."""

    def __init__(self, path: Path, storage: LocalStorage, key: str) -> None:
        self._storage, self._key = storage, key
        super().__init__(path, "r", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC))

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise self._storage.told(error, self._key) from error


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _temporary_name(name: str, upload_id: str) -> str:
    return f".{name}.{upload_id}{_TEMPORARY}"


def _upload_of(key: str) -> Upload | None:
    folder, _, name = key.rpartition("/")
    if not (name.startswith(".") and name.endswith(_TEMPORARY)):
        return None
    object_name, _, upload_id = name[1 : -len(_TEMPORARY)].rpartition(".")
    started, _, _ = upload_id.partition("-")
    whole = f"{folder}/{object_name}" if folder else object_name
    try:
        return Upload(whole, upload_id, datetime.fromtimestamp(int(started, 16), UTC)) if is_key(whole) else None
    except (ValueError, OverflowError):
        return None


def _make_folders(folder: Path, root: Path) -> None:
    """Like ``mkdir -p`` inside the store, each new name on the disk before anything is put into it."""
    missing = []
    while folder != root and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        with contextlib.suppress(FileExistsError):
            new.mkdir(mode=0o700, parents=True)
            _sync_folder(new.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
