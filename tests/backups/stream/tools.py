"""What the tests of the stream share: keys, a stored artifact, stores that misbehave."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyrage

from backups.keys import Identity
from backups.storage.base import ObjectInfo, ObjectWriter
from backups.storage.local import LocalStorage
from backups.stream import Part, Stored, open_stream, store_stream

FOLDER = "sets/zantara/2026/11/one/files"


@dataclass(frozen=True)
class Key:
    secret: pyrage.x25519.Identity

    @property
    def public(self) -> str:
        return str(self.secret.to_public())

    @property
    def identity(self) -> Identity:
        return Identity(self.secret)

    def file(self, folder: Path) -> Path:
        path = folder / f"{self.public[-8:]}.txt"
        path.write_text(f"{self.secret}\n")
        return path


def new_key() -> Key:
    return Key(pyrage.x25519.Identity.generate())


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def text(size: int) -> bytes:
    """Bytes that do."""
    line = b"2026-11-23 INFO user=%d asked, 200 in 17 ms\n"
    return b"".join(line % number for number in range(size // 40 + 1))[:size]


def cut(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@dataclass(frozen=True)
class Kept:
    """A manifest's entry, as far as reading needs it."""

    name: str
    compressed: bool
    plain_bytes: int
    plain_sha256: str
    stored_sha256: str
    parts: Sequence[Part]

    @classmethod
    def of(cls, stored: Stored) -> Kept:
        return cls(
            "files", stored.compressed, stored.plain_bytes, stored.plain_sha256, stored.stored_sha256, stored.parts
        )


def keep(storage: Any, data: bytes, key: Key, **options: Any) -> Kept:
    """Store ``data`` as the artifact ``files``."""
    wanted: dict[str, Any] = {"level": 3, "finish": lambda: None, "recipients": [key.public], **options}
    stored, _ = store_stream(cut(data, 100_000), storage=storage, folder=FOLDER, **wanted)
    return Kept.of(stored)


def read(storage: Any, kept: Kept, key: Key) -> bytes:
    return b"".join(open_stream(storage, FOLDER, kept, key.identity))


def part_file(storage: LocalStorage, number: int) -> Path:
    return storage.root / FOLDER / f"part-{number:05d}.age"


def stream_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("store-", "open-"))]


class Hurt:
    """A store whose calls a test may replace: ``Hurt(storage, open_reader=…)``; counts what it does."""

    def __init__(self, storage: Any, **instead: Any) -> None:
        self._storage, self._instead = storage, instead
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = self._instead.get(name, None) or getattr(self._storage, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return found(*args, **kwargs)

        return call


class FailingWriter:
    """Raises at the so-many-th byte, at completion, or blocks there until it is let go."""

    def __init__(self, writer: ObjectWriter, log: list[str], *, at: int | None, error: Exception, where: str) -> None:
        self._writer, self._log, self._at, self._error, self._where = writer, log, at, error, where
        self._written = 0

    def write(self, data: bytes | memoryview) -> None:
        self._written += len(data)
        if self._where == "write" and self._at is not None and self._written > self._at:
            self._log.append("fired")
            raise self._error
        self._writer.write(data)

    def complete(self) -> None:
        if self._where == "complete":
            self._log.append("fired")
            raise self._error
        self._writer.complete()

    def abort(self) -> None:
        self._writer.abort()


def failing_writer(
    storage: Any, log: list[str], error: Exception, *, key_end: str, where: str = "write", at: int = 0
) -> Any:
    """An ``open_writer`` that fails in the object whose key ends so."""

    @contextmanager
    def open_writer(key: str) -> Iterator[ObjectWriter]:
        with storage.open_writer(key) as writer:
            if key.endswith(key_end):
                yield FailingWriter(writer, log, at=at, error=error, where=where)
            else:
                yield writer

    return open_writer


def objects(storage: Any) -> list[ObjectInfo]:
    return list(storage.list(""))


def reader_that(storage: Any, spoil: Any) -> Any:
    """An ``open_reader`` whose result ``spoil(key, bytes)`` gives."""
    import io

    def open_reader(key: str, *, start: int = 0) -> AbstractContextManager[BinaryIO]:
        with storage.open_reader(key, start=start) as reader:
            return io.BytesIO(spoil(key, reader.read()))

    return open_reader
