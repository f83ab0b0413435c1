"""Producer -> SHA-256 -> zstd -> age -> parts: threads joined by bounded queues, and nothing left after an error."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

import pyrage
import structlog
import zstandard

from backups import keys
from backups.errors import Damaged
from backups.storage.base import ObjectWriter, Storage
from controlplane.kernel import clock

from .base import BLOCK_BYTES, Part, Stored, part_name
from .crew import Aborted, Channel, ChannelReader, ChannelWriter, Crew

if TYPE_CHECKING:
    from hashlib import _Hash

T = TypeVar("T")
log = structlog.get_logger(__name__)

PART_BYTES = 2**30
#: How often ``stop`` is asked and ``progress`` told, at least.
WATCH_SECONDS = 0.25
#: More zstd threads than this only cost memory: each holds a job of some MiB, in and out.
MOST_THREADS = 4
#: zstd's own choice at level 3 is 8 MiB a job, 180 MiB in all; 1 MiB needs 29 MiB and compresses as well (measured).
_JOB_BYTES = 2**20
_LAST_LIGHT_LEVEL = 9


def store_stream(  # noqa: PLR0913  (all named at the call)
    chunks: Iterable[bytes],
    *,
    storage: Storage,
    folder: str,
    recipients: Sequence[str],
    level: int | None,
    finish: Callable[[], T],
    part_bytes: int = PART_BYTES,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], None] | None = None,
    interrupt: Callable[[], None] | None = None,
    read_back: bool = True,
) -> tuple[Stored, T]:
    """Store what ``chunks`` gives as one age stream in parts ``<folder>/part-NNNNN.age``; ``level`` None: no zstd.

    ``chunks`` is read and ``finish`` and ``progress(plain_bytes, stored_bytes)`` are called in the caller's thread.
    ``finish`` (the producer's exit code) runs after the last chunk and before the last part becomes visible. ``stop``
    runs in a thread of its own every quarter of a second, also while the producer or the store blocks; what it raises
    ends the stream. ``interrupt`` is then called from that thread, to wake a producer that blocks.

    Then each part is read back: its size, and with ``read_back`` its hash; Damaged where the store holds other bytes.
    Whatever is raised, no thread stays and the parts that were already complete are deleted.
    """
    ages = keys.as_age(tuple(recipients))
    crew = Crew("store")
    plain, packed, sealed = crew.channel(), crew.channel(), crew.channel()
    upload = _Upload(crew, storage, folder, part_bytes, sealed)
    counts = _Counts()
    crew.spawn(_watch, crew, stop, interrupt)
    crew.spawn(_compress, plain, packed, level)
    crew.spawn(_encrypt, packed, sealed, ages, counts)
    crew.spawn(upload.run)
    tell = _Teller(progress, counts, upload)
    iterator = _blocks(chunks)
    try:
        digest = _feed(iterator, plain, counts, tell)
        result = finish()
        upload.let_complete(tell)
        parts = upload.parts
        _read_back(storage, folder, parts, crew, hashes=read_back)
        tell.now()
    except BaseException as error:
        crew.fail(error)
        crew.join()
        upload.undo()
        # Where the pipeline failed first, this thread merely noticed: tell what happened, not that it stopped.
        first = crew.error
        if first is not None and first is not error:
            raise first from None
        raise
    finally:
        iterator.close()
        crew.end()
        crew.join()
    return Stored(
        plain_bytes=counts.plain,
        plain_sha256=digest,
        compressed=level is not None,
        compressed_bytes=counts.packed,
        stored_bytes=sum(part.size for part in parts),
        stored_sha256=upload.sha256,
        parts=tuple(parts),
    ), result


class _Counts:
    plain = packed = 0


class _Teller:
    """Passes figures on at most every quarter of a second."""

    def __init__(self, progress: Callable[[int, int], None] | None, counts: _Counts, upload: _Upload) -> None:
        self._progress, self._counts, self._upload = progress, counts, upload
        self._last = clock.monotonic()

    def __call__(self) -> None:
        if self._progress is not None and clock.monotonic() - self._last >= WATCH_SECONDS:
            self.now()

    def now(self) -> None:
        if self._progress is not None:
            self._last = clock.monotonic()
            self._progress(self._counts.plain, self._upload.written_bytes)


def _blocks(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Small chunks joined to blocks, so that a producer of lines costs as little as one of megabytes."""
    iterator = iter(chunks)
    held: list[bytes] = []
    size = 0
    try:
        for chunk in iterator:
            if len(chunk) >= BLOCK_BYTES // 2 and not held:
                yield chunk
                continue
            held.append(chunk)
            size += len(chunk)
            if size >= BLOCK_BYTES:
                yield b"".join(held)
                held, size = [], 0
        if held:
            yield b"".join(held)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _feed(blocks: Iterator[bytes], plain: Channel, counts: _Counts, tell: _Teller) -> str:
    digest = sha256()
    for block in blocks:
        digest.update(block)
        counts.plain += len(block)
        plain.put(block)
        tell()
    plain.close()
    return digest.hexdigest()


def _watch(crew: Crew, stop: Callable[[], None] | None, interrupt: Callable[[], None] | None) -> None:
    try:
        while True:
            if stop is not None and not crew.failed:
                try:
                    stop()
                except BaseException as error:  # noqa: BLE001  (whatever it raises is why the stream ends)
                    crew.fail(error)
            if crew.wait_end(WATCH_SECONDS):
                break
        if crew.failed and interrupt is not None:
            interrupt()
    finally:
        _close_database_connections()


def _close_database_connections() -> None:
    """``stop`` may have asked the database: connections belong to a thread, and this one ends."""
    from django.db import connections

    connections.close_all()


def threads() -> int:
    """zstd's worker threads: the cores that this process may use, at most four."""
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


def compressor_for(level: int) -> zstandard.ZstdCompressor:
    """One frame with a checksum. The strong levels' tables (up to 80 MiB each) are had once, not once per core."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        threads=threads() if level <= _LAST_LIGHT_LEVEL else 1,
        job_size=_JOB_BYTES,
        write_checksum=True,
        write_content_size=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _compress(plain: Channel, packed: Channel, level: int | None) -> None:
    if level is None:
        for block in plain:
            packed.put(block)
    else:
        compressor = compressor_for(level).compressobj()
        for block in plain:
            out = compressor.compress(block)
            if out:
                packed.put(out)
        packed.put(compressor.flush())
    packed.close()


def _encrypt(packed: Channel, sealed: Channel, ages: Sequence[Any], counts: _Counts) -> None:
    source, sink = ChannelReader(packed), ChannelWriter(sealed)
    pyrage.encrypt_io(source.buffered(), sink, list(ages))
    counts.packed = source.total_bytes
    sink.close()


class _Upload:
    """The last step: cuts the stream into parts, hashes them, and hands them to the store."""

    def __init__(self, crew: Crew, storage: Storage, folder: str, part_bytes: int, sealed: Channel) -> None:
        self._crew, self._storage, self._folder, self._part_bytes = crew, storage, folder, part_bytes
        self._sealed = sealed
        self._drained, self._may_complete, self._completed = threading.Event(), threading.Event(), threading.Event()
        self._begun: list[str] = []
        self.parts: list[Part] = []
        self.written_bytes = 0
        self.sha256 = ""

    def run(self) -> None:
        with ExitStack() as open_part:
            writer: ObjectWriter | None = None
            whole: _Hash | None = None  # of the stream; while there is one part its own hash is that
            digest, size = sha256(), 0
            for block in self._sealed:
                rest = memoryview(block)
                while rest:
                    if writer is not None and size == self._part_bytes:
                        self._complete(writer, open_part, size, digest)
                        whole = whole or digest.copy()
                        writer, digest, size = None, sha256(), 0
                    if writer is None:
                        writer = open_part.enter_context(self._storage.open_writer(self._next_key()))
                    piece, rest = rest[: self._part_bytes - size], rest[self._part_bytes - size :]
                    writer.write(piece)
                    digest.update(piece)
                    if whole is not None:
                        whole.update(piece)
                    size += len(piece)
                    self.written_bytes += len(piece)
            self._drained.set()
            self._wait(self._may_complete)
            assert writer is not None  # noqa: S101  (an age stream has a header)
            self._complete(writer, open_part, size, digest)
            self.sha256 = (whole or digest).hexdigest()
        self._completed.set()

    def _next_key(self) -> str:
        key = f"{self._folder}/{part_name(len(self.parts) + 1)}"
        self._begun.append(key)
        return key

    def _complete(self, writer: ObjectWriter, open_part: ExitStack, size: int, digest: _Hash) -> None:
        writer.complete()
        open_part.close()
        self.parts.append(Part(part_name(len(self.parts) + 1), size, digest.hexdigest()))

    def let_complete(self, tell: _Teller) -> None:
        """Called when the producer ended well: wait for the rest, then make the last part visible."""
        while not self._drained.wait(WATCH_SECONDS):
            self._crew.check()
            tell()
        self._crew.check()
        self._may_complete.set()
        self._wait(self._completed)

    def _wait(self, event: threading.Event) -> None:
        while not event.wait(WATCH_SECONDS):
            self._crew.check()
        self._crew.check()

    def undo(self) -> None:
        """Delete what became visible; what cannot be deleted now is found again as an orphan."""
        if not self._begun:
            return
        try:
            left = self._storage.delete(self._begun)
        except Exception as error:  # noqa: BLE001  (the error that led here matters more than this one)
            left = dict.fromkeys(self._begun, str(error))
        if left:
            log.warning("parts_left_behind", folder=self._folder, parts=len(left), why=next(iter(left.values())))


def _read_back(storage: Storage, folder: str, parts: Sequence[Part], crew: Crew, *, hashes: bool) -> None:
    """What a store says it has taken is not what it has: some accept a missing block or a wrong checksum."""
    for part in parts:
        key = f"{folder}/{part.name}"
        info = storage.stat(key)
        if info is None or info.size != part.size:
            held = "nothing" if info is None else f"{info.size} bytes"
            raise Damaged(
                f"The store took {part.size} bytes for {key} and holds {held}.",
                remedy="Test the storage target; the backup is tried again.",
            )
        if hashes and _hash(storage, key, crew) != part.sha256:
            raise Damaged(
                f"The store gives back other bytes for {key} than it was given.",
                remedy="Test the storage target and the memory of this machine; the backup is tried again.",
            )


def _hash(storage: Storage, key: str, crew: Crew) -> str:
    digest = sha256()
    with storage.open_reader(key) as reader:
        while block := reader.read(BLOCK_BYTES):
            digest.update(block)
            crew.check()
    return digest.hexdigest()


__all__ = ["Aborted", "store_stream"]
