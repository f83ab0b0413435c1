"""Write a tar stream into an empty directory, refusing every entry that could reach outside it.

Paths are judged by their text (no ``..``, nothing absolute) and parents must be real directories that this extraction
made, so that no file is ever written through a link; links are judged by Python's data filter and once more, resolved,
at the end, when everything that they could lead through stands.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from backups.errors import Damaged

from .tar_stream import Listing, Member, TarReader, as_text

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_BYTES = 2**20


class _Extraction:
    """The sink: writes below ``root``, with the recorded modes and times, and owners where we are root."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.text_root = str(root)
        self.owns = os.geteuid() == 0
        self.directories: dict[bytes, Member | None] = {b"": None}
        self.links: list[bytes] = []
        self.count = 0
        self._fd = -1

    def begin(self, member: Member) -> None:
        path = member.path
        self._judge(path)
        self._parents(path.rpartition(b"/")[0])
        place = self.root + b"/" + path
        try:
            if member.type == "directory":
                if path not in self.directories:
                    os.mkdir(place, 0o700)  # noqa: PTH102  (bytes, here and below: what the archive has)
                self.directories[path] = member
            elif member.type == "link":
                self._judge_link(member)
                os.symlink(member.target, place)  # noqa: PTH211
                self.links.append(path)
                if self.owns:
                    os.lchown(place, member.uid, member.gid)
            else:
                self._fd = os.open(place, _FLAGS, 0o600)
                self._member = member
        except FileExistsError:
            raise _refused(path, "comes twice, or its place is taken by something else") from None
        self.count += 1

    def data(self, piece: memoryview) -> None:
        while piece:
            piece = piece[os.write(self._fd, piece) :]

    def end(self) -> None:
        member, fd = self._member, self._fd
        if self.owns:
            os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode)
        os.utime(fd, (member.mtime, member.mtime))
        os.close(fd)
        self._fd = -1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def complete(self) -> None:
        """Modes of directories last: a directory that cannot be written must be filled first."""
        root = os.path.realpath(self.root)
        for path in self.links:
            where = os.path.realpath(self.root + b"/" + path)
            if where != root and not where.startswith(root + b"/"):
                raise _refused(path, "is a link that leads out")
        for path, member in sorted(self.directories.items(), reverse=True):
            if member is not None:
                if self.owns:
                    os.chown(self.root + b"/" + path, member.uid, member.gid)
                os.chmod(self.root + b"/" + path, member.mode)  # noqa: PTH101

    @staticmethod
    def _judge(path: bytes) -> None:
        if not path or path.startswith(b"/") or b"\0" in path:
            raise _refused(path, "is not a relative path")
        parts = path.split(b"/")
        if b".." in parts or b"" in parts or b"." in parts:
            raise _refused(path, "does not stay where it belongs")

    def _judge_link(self, member: Member) -> None:
        info = tarfile.TarInfo(os.fsdecode(member.path))
        info.type, info.linkname = tarfile.SYMTYPE, os.fsdecode(member.target)
        try:
            tarfile.data_filter(info, self.text_root)
        except tarfile.FilterError:
            raise _refused(member.path, "is a link that leads out") from None

    def _parents(self, parent: bytes) -> None:
        if parent not in self.directories:
            self._parents(parent.rpartition(b"/")[0])
            try:
                os.mkdir(self.root + b"/" + parent, 0o755)  # noqa: PTH102
            except FileExistsError:
                raise _refused(parent, "is not a directory, yet something is below it") from None
            self.directories[parent] = None


def _refused(path: bytes, why: str) -> Damaged:
    return Damaged(
        f"The archive's entry {as_text(path)!r} {why}; nothing was taken from it.",
        remedy="This is no archive that we wrote: use another restore point and find out who changed this one.",
    )


def extract(chunks: Iterator[bytes], root: Path) -> int:
    """Everything of the stream below ``root``, an empty directory; how many entries.

    Raises Damaged where the stream is cut or holds an entry that must not be written.
    """
    extraction = _Extraction(root)
    reader = TarReader(extraction)
    try:
        for chunk in chunks:
            reader.feed(chunk)
        reader.close()
        extraction.complete()
    finally:
        extraction.close()
    return extraction.count


def listing_from_disk(root: Path) -> dict[str, list[Any]]:
    """The same entries as ``tar_stream.Listing`` has, read back from the disk."""
    listing = Listing()
    _walk(os.fsencode(root), b"", listing)
    return listing.entries


def _walk(root: bytes, path: bytes, listing: Listing) -> None:
    with os.scandir(root + b"/" + path if path else root) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        below = path + b"/" + entry.name if path else entry.name
        info = entry.stat(follow_symlinks=False)
        name = as_text(below)
        mode = info.st_mode & 0o777
        if entry.is_symlink():
            listing.entries[name] = ["link", 0, 0, 0, as_text(os.readlink(entry.path))]  # noqa: PTH115
        elif entry.is_dir(follow_symlinks=False):
            listing.entries[name] = ["directory", 0, mode, 0, ""]
            _walk(root, below, listing)
        else:
            listing.entries[name] = ["file", info.st_size, mode, int(info.st_mtime), _sha256(entry.path)]


def _sha256(path: bytes) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(_READ_BYTES)
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (a path of bytes)
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()
