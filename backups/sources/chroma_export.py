"""Read all collections of a Chroma while others write to it.

The server gives records in the order of their addition, and an offset moves when a record below it is deleted. So
pages are read from the last to the first: what a deletion moves, it moves towards pages that are still to come. What
is added meanwhile is at the end, where a tail pass looks for it afterwards; ids already seen are passed over.
(Read upwards instead, deleting 5 000 early records lost 5 000 of 55 000 others.)
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import orjson

from backups.errors import CaptureFailed
from controlplane.kernel.errors import Unavailable

from .base import Capture, Captured
from .chroma_client import Chroma, CollectionGone, Server
from .chroma_format import FORMAT, VERSION, Record, Tally, collection_line, line_of, records_of
from .ndjson import compact

MOST_PAGE_RECORDS = 1000
#: Of the server's JSON: 1000 records of 384 dimensions are 4.4 MB.
PAGE_BYTES = 12 * 10**6
#: Whoever adds faster than this many passes read is not waited for: his records are in the next backup.
MOST_TAIL_PASSES = 5
CHUNK_BYTES = 2**20
_QUEUE_CHUNKS = 8
_WAIT_SECONDS = 0.2
#: What a restore leaves beside, by its restorer.
LEFT_BY_A_RESTORE = re.compile(r"__(restore|before)_[A-Za-z0-9]{1,12}$")


class Pages:
    """Pages of one collection, from the last record to the first, the next one read while this one is taken."""

    def __init__(self, chroma: Chroma, collection: dict[str, Any], ahead: ThreadPoolExecutor) -> None:
        self._chroma, self._id, self._ahead = chroma, str(collection["id"]), ahead
        dimension = int(collection.get("dimension") or 384)
        self._limit = self._fitting(dimension * 14 + 1000)

    def down(self, top: int) -> Iterator[list[Record]]:
        """Everything below offset ``top``."""
        while top > 0:
            # How large records are shows only when a page is here; then the size of all later ones follows it.
            limit = self._limit
            bounds = [(max(0, at - limit), min(at, limit)) for at in range(top, 0, -limit)]
            coming = self._read(*bounds[0])
            for number, (offset, count) in enumerate(bounds):
                raw = coming.result()
                self._limit = self._fitting(len(raw) // count)
                again = self._limit < limit // 2 or (limit < MOST_PAGE_RECORDS and self._limit > limit * 2)
                if number + 1 < len(bounds) and not again:
                    coming = self._read(*bounds[number + 1])
                yield list(records_of(orjson.loads(raw)))
                top = offset
                if again:
                    break

    @staticmethod
    def _fitting(record_bytes: int) -> int:
        return max(1, min(MOST_PAGE_RECORDS, PAGE_BYTES // max(1, record_bytes)))

    def _read(self, offset: int, limit: int) -> Future[bytes]:
        return self._ahead.submit(self._chroma.page, self._id, offset=offset, limit=limit)


def records(chroma: Chroma, collection: dict[str, Any], ahead: ThreadPoolExecutor) -> Iterator[Record]:
    """Every record that is there all along exactly once, and those of before or after that were met."""
    pages, seen = Pages(chroma, collection, ahead), set[str]()

    def fresh(page: list[Record]) -> list[Record]:
        new = [record for record in page if record.id not in seen]
        seen.update(record.id for record in new)
        return new

    for page in pages.down(chroma.count(str(collection["id"]))):
        yield from fresh(page)
    for _ in range(MOST_TAIL_PASSES):
        found = False
        for page in pages.down(chroma.count(str(collection["id"]))):
            new = fresh(page)
            yield from new
            found = found or bool(new)
            if not new:
                break  # whatever is below is older
        if not found:
            return


class ChromaCapture(Capture):
    """A thread reads ahead into a short queue, so that an interruption never waits for a request."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_QUEUE_CHUNKS)
        self._stopped = threading.Event()
        self._reader = threading.Thread(target=self._run, name="chroma-export", daemon=True)
        self._tallies: dict[str, dict[str, Any]] = {}
        self._warnings: list[str] = []
        self._version = ""
        self._chroma: Chroma | None = None
        self._ended = False

    def __enter__(self) -> ChromaCapture:
        with Chroma(self._server) as chroma:
            require_database(chroma)
            self._version = chroma.version()
        self._reader.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.interrupt()
        while self._reader.is_alive():
            with suppress(queue.Empty):
                self._queue.get_nowait()
            self._reader.join(0.05)

    def interrupt(self) -> None:
        self._stopped.set()
        if self._chroma is not None:
            self._chroma.abort()

    def chunks(self) -> Iterator[bytes]:
        while True:
            try:
                item = self._queue.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                item = b""
            if self._stopped.is_set():
                raise CaptureFailed("The export of Chroma was stopped before its end.", remedy="Start it again.")
            if isinstance(item, BaseException):
                raise item
            if item is None:
                self._ended = True
                return
            if item:
                yield item

    def finish(self) -> Captured:
        if not self._ended:
            raise CaptureFailed("The export of Chroma did not come to its end.", remedy="Start the backup again.")
        return Captured(
            expectations={"collections": self._tallies, "server": self._version},
            summary={
                "collections": len(self._tallies),
                "records": sum(tally["count"] for tally in self._tallies.values()),
            },
            tools={"chroma": self._version},
            warnings=tuple(self._warnings),
        )

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            with Chroma(self._server) as chroma, ThreadPoolExecutor(1, "chroma-ahead") as ahead:
                self._chroma = chroma
                self._send_pieces(self._export(chroma, ahead))
            self._put(None)
        except _Stopped:
            pass
        except Unavailable as error:
            self._put_last(CaptureFailed(f"Chroma could not be read to its end. {error.message}", remedy=error.remedy))
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that takes the chunks)
            self._put_last(error)

    def _send_pieces(self, lines: Iterator[bytes]) -> None:
        held: list[bytes] = []
        size = 0
        for line in lines:
            held.append(line)
            size += len(line)
            if size >= CHUNK_BYTES:
                whole = b"".join(held)
                for start in range(0, size - CHUNK_BYTES + 1, CHUNK_BYTES):
                    self._put(whole[start : start + CHUNK_BYTES])
                held = [whole[size - size % CHUNK_BYTES :]]
                size = len(held[0])
        if size:
            self._put(b"".join(held))

    def _export(self, chroma: Chroma, ahead: ThreadPoolExecutor) -> Iterator[bytes]:
        head = {
            "format": FORMAT, "version": VERSION, "server": self._version,
            "tenant": self._server.tenant, "database": self._server.database,
        }  # fmt: skip
        yield compact(head) + b"\n"
        collections = to_save(chroma, self._warnings.append)
        for collection in collections:
            tally = Tally()
            yield collection_line(collection)
            yield from self._records(chroma, collection, ahead, tally)
            yield compact({"end_of": collection["name"], "records": tally.count}) + b"\n"
            self._tallies[str(collection["name"])] = {
                **tally.as_json(),
                "dimension": tally.dimension,
                "configuration_json": collection.get("configuration_json"),
                "metadata": collection.get("metadata"),
            }
        total = sum(tally["count"] for tally in self._tallies.values())
        yield compact({"end": {"collections": len(collections), "records": total}}) + b"\n"
        self._warn_of_changes(collections, to_save(chroma, lambda _: None))

    def _records(
        self, chroma: Chroma, collection: dict[str, Any], ahead: ThreadPoolExecutor, tally: Tally
    ) -> Iterator[bytes]:
        try:
            for record in records(chroma, collection, ahead):
                if self._stopped.is_set():
                    raise _Stopped
                tally.add(record.head, record.id, record.vector)
                yield line_of(record)
        except CollectionGone:
            self._warnings.append(
                f"The collection {collection['name']} was deleted while it was read; {tally.count} of its records are "
                "in this backup."
            )

    def _warn_of_changes(self, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
        there, was = ({str(one["id"]): str(one["name"]) for one in many} for many in (after, before))
        for collection_id, name in there.items():
            if collection_id not in was:
                self._warnings.append(f"The collection {name} was made during the backup and is not in it.")
        for collection_id, name in was.items():
            if collection_id not in there and not any(f" {name} was deleted" in warning for warning in self._warnings):
                self._warnings.append(f"The collection {name} was deleted during the backup; it is in it.")

    def _put(self, item: bytes | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=_WAIT_SECONDS)
                return
        raise _Stopped

    def _put_last(self, error: BaseException) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(error, timeout=_WAIT_SECONDS)
                return


class _Stopped(Exception):
    """Nobody takes what is read any more."""


def require_database(chroma: Chroma) -> None:
    """Unavailable where the database is not there: it would list as an empty one."""
    if not chroma.has_database():
        server = chroma.server
        raise Unavailable(
            f"Chroma has no database {server.database} of the tenant {server.tenant}.",
            remedy="See that tenant and database are spelt as they are there, and that the token may read them.",
        )


def to_save(chroma: Chroma, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """The collections, without what an unfinished restore left beside them."""
    kept = []
    for collection in chroma.collections():
        if LEFT_BY_A_RESTORE.search(str(collection["name"])):
            warn(f"The collection {collection['name']} is left over from a restore and is not saved.")
        else:
            kept.append(collection)
    return kept
