"""Read a tar stream while it passes: each header checked, each file handed to a sink, no byte copied for it.

Only what GNU tar's ``--format=pax`` writes is understood: files, directories, symbolic links and pax headers. A
hard link, a device or a pipe is refused, wherever it comes from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from backups.errors import Damaged

BLOCK = 512
_ZEROS = bytes(BLOCK)
_REMEDY = "This artifact cannot be restored; use another restore point."
_TYPES: dict[int, Literal["file", "directory", "link"]] = {
    ord("0"): "file", 0: "file", ord("5"): "directory", ord("2"): "link",
}  # fmt: skip
_REFUSED = {ord("1"): "a hard link", ord("3"): "a device", ord("4"): "a device", ord("6"): "a named pipe"}


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. ``path`` is relative, without a trailing slash; ``target`` where a link leads."""

    path: bytes
    type: Literal["file", "directory", "link"]
    size: int
    mode: int
    mtime: int
    uid: int
    gid: int
    target: bytes


class Sink(Protocol):
    def begin(self, member: Member) -> None: ...
    def data(self, piece: memoryview) -> None: ...
    def end(self) -> None:
        """The file that began last is whole."""
        ...


def as_text(path: bytes) -> str:
    """A path for people and JSON; bytes that are no UTF-8 show as ``\\xff``."""
    return path.decode("utf-8", "backslashreplace")


class TarReader:
    """``feed`` it every chunk, then ``close``; Damaged where it is no whole tar stream."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._partial = bytearray()
        self._left = 0  # bytes of the present body
        self._padding = 0
        self._pax: bytearray | None = None  # the body of a pax header that is being read
        self._over: dict[bytes, bytes] = {}  # what the last pax header says of the next member
        self._in_file = False
        self._ended = False

    def feed(self, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        while view:
            if self._left:
                piece, view = view[: self._left], view[self._left :]
                self._take(piece)
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            elif self._ended:
                if bytes(view).count(0) != len(view):
                    raise Damaged("There is something after the end of the archive.", remedy=_REMEDY)
                return
            elif self._partial or len(view) < BLOCK:
                needed = BLOCK - len(self._partial)
                self._partial += view[:needed]
                view = view[needed:]
                if len(self._partial) == BLOCK:
                    header = bytes(self._partial)
                    self._partial.clear()
                    self._header(header)
            else:
                header, view = bytes(view[:BLOCK]), view[BLOCK:]
                self._header(header)

    def close(self) -> None:
        if not self._ended:
            raise Damaged("The archive ends in the middle.", remedy=_REMEDY)

    def _take(self, piece: memoryview) -> None:
        self._left -= len(piece)
        if self._pax is not None:
            self._pax += piece
            if not self._left:
                self._read_pax()
            return
        self._sink.data(piece)
        if not self._left:
            self._sink.end()

    def _header(self, header: bytes) -> None:
        if header == _ZEROS:
            self._ended = True
            return
        if sum(header) - sum(header[148:156]) + 8 * 32 != _number(header[148:156]):
            raise Damaged("A header of the archive is not what was written.", remedy=_REMEDY)
        size = int(self._over.get(b"size", b"-1")) if b"size" in self._over else _number(header[124:136])
        kind = header[156]
        if kind in (ord("x"), ord("g")):
            self._pax, self._left, self._padding = bytearray(), size, -size % BLOCK
            return
        self._member(header, kind, size)

    def _member(self, header: bytes, kind: int, size: int) -> None:
        over, self._over = self._over, {}
        name = header[:100].partition(b"\0")[0]
        prefix = header[345:500].partition(b"\0")[0]
        path = over.get(b"path", prefix + b"/" + name if prefix else name)
        type_ = _TYPES.get(kind)
        if type_ is None:
            what = _REFUSED.get(kind, "something unknown")
            raise Damaged(f"{as_text(path)} is {what}, which no backup of ours holds.", remedy=_REMEDY)
        if type_ != "file":
            size = 0
        member = Member(
            path=path.rstrip(b"/") if type_ == "directory" else path,
            type=type_,
            size=size,
            mode=_number(header[100:108]) & 0o777,
            mtime=int(float(over[b"mtime"])) if b"mtime" in over else _number(header[136:148]),
            uid=int(over[b"uid"]) if b"uid" in over else _number(header[108:116]),
            gid=int(over[b"gid"]) if b"gid" in over else _number(header[116:124]),
            target=over.get(b"linkpath", header[157:257].partition(b"\0")[0]),
        )
        self._left, self._padding = size, -size % BLOCK
        self._sink.begin(member)
        if type_ == "file" and not size:
            self._sink.end()

    def _read_pax(self) -> None:
        assert self._pax is not None  # noqa: S101  (only called while one is being read)
        body, self._pax = bytes(self._pax), None
        while body:
            length_text, space, _ = body.partition(b" ")
            try:
                length = int(length_text)
            except ValueError:
                length = 0
            key, equals, value = body[len(length_text) + 1 : length - 1].partition(b"=")
            if not space or not equals or length > len(body) or body[length - 1 : length] != b"\n":
                raise Damaged("A pax header of the archive makes no sense.", remedy=_REMEDY)
            self._over[key] = value
            body = body[length:]


def _number(field: bytes) -> int:
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise Damaged("A header of the archive holds no number where one must be.", remedy=_REMEDY) from None


class Listing:
    """A sink that keeps, per path, ``[type, size, mode, mtime, digest]``.

    ``digest`` is a file's SHA-256 or where a link leads. Directories and links have no time of their own here: that
    of a directory changes with each file in it.
    """

    def __init__(self) -> None:
        self.entries: dict[str, list[Any]] = {}
        self.bytes = 0

    def begin(self, member: Member) -> None:
        self._path = as_text(member.path)
        self._hash = hashlib.sha256()
        digest = as_text(member.target) if member.type == "link" else ""
        is_file = member.type == "file"
        self.entries[self._path] = [
            member.type,
            member.size,
            0 if member.type == "link" else member.mode,
            member.mtime if is_file else 0,
            digest,
        ]
        self.bytes += member.size

    def data(self, piece: memoryview) -> None:
        self._hash.update(piece)

    def end(self) -> None:
        self.entries[self._path][4] = self._hash.hexdigest()

    @property
    def files(self) -> int:
        return sum(1 for entry in self.entries.values() if entry[0] == "file")


def describe_change(expected: list[Any], found: list[Any]) -> str:
    """In what two entries of a Listing differ."""
    names = ("its type", "its size", "its mode", "its time", "its content")
    different = [name for name, one, other in zip(names, expected, found, strict=True) if one != other]
    return "is not as it was: " + ", ".join(different)
