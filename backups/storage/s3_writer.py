"""One object on its way into a bucket: 16 MiB blocks, a few in flight, memory that does not grow with the object."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

import structlog
from botocore.exceptions import ClientError

from backups.errors import ObjectMissing, StorageUnavailable
from controlplane.kernel.errors import ZantaraError

from .base import ObjectInfo
from .s3_calls import Calls, given_up

log = structlog.get_logger(__name__)

BLOCK_BYTES = 16 * 2**20
#: Blocks that are being sent; one more is being filled. 4 x 16 MiB is what an upload needs of memory.
IN_FLIGHT = 3
#: The most parts that S3 knows: an object of more than 156 GiB is refused before it is begun to fail.
MOST_PARTS = 10_000


class Bucket(Protocol):
    """What a writer needs of its store."""

    client: Any
    calls: Calls
    brief: Calls
    parameters: dict[str, Any]
    checksums_by_boto: bool

    def place(self, key: str) -> dict[str, str]:
        """The arguments that name the object."""
        ...

    def stat(self, key: str) -> ObjectInfo | None: ...

    def abort_by_id(self, key: str, upload_id: str, calls: Calls) -> None: ...


class S3Writer(AbstractContextManager["S3Writer"]):
    """``abort`` may come from another thread: it wakes a ``write`` that waits, and ends a block that is being sent."""

    def __init__(self, bucket: Bucket, key: str, *, always_multipart: bool = False) -> None:
        self._bucket, self._key, self._always = bucket, key, always_multipart
        self._state = threading.Condition()
        self._stop = threading.Event()
        self._clearing = threading.Lock()
        self._completed = self._cleared = False
        self._failure: BaseException | None = None
        self._upload_id = ""
        self._parts: dict[int, dict[str, Any]] = {}
        self._threads: set[threading.Thread] = set()
        self._spare: list[bytearray] = []
        self._block = bytearray()
        self._filled = self._number = self._written = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data).cast("B")
        self._go_on()
        while rest:
            if not self._block:
                self._block = self._spare.pop() if self._spare else bytearray(BLOCK_BYTES)
            count = min(len(rest), BLOCK_BYTES - self._filled)
            self._block[self._filled : self._filled + count] = rest[:count]
            self._filled += count
            self._written += count
            rest = rest[count:]
            if self._filled == BLOCK_BYTES:
                self._send_block()

    def complete(self) -> None:
        self._go_on()
        if not self._number and not self._always:
            self._put()
        else:
            if self._filled or not self._number:
                self._send_block()
            self._wait_for(lambda: not self._threads)
            self._join()
        self._confirm()
        with self._state:
            self._completed = True

    def abort(self) -> None:
        with self._state:
            if self._completed:
                return
            self._stop.set()
            self._state.notify_all()
        with self._clearing:  # a second caller returns when all is cleared away, too
            if not self._cleared:
                self._clear()
            self._cleared = True

    def _clear(self) -> None:
        for thread in list(self._threads):
            thread.join()
        if not self._upload_id:
            return
        try:
            self._bucket.abort_by_id(self._key, self._upload_id, self._bucket.brief)
        except ZantaraError as error:  # the janitor finds it; what led here is what must be told
            log.warning("upload_not_aborted", key=self._key, reason=str(error))

    def _go_on(self) -> None:
        with self._state:
            if self._failure is not None:
                raise self._failure
            if self._completed or self._stop.is_set():
                raise given_up(self._key)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._state:
            self._state.wait_for(lambda: condition() or self._failure is not None or self._stop.is_set())
        self._go_on()

    def _send_block(self) -> None:
        self._wait_for(lambda: len(self._threads) < IN_FLIGHT)
        if not self._upload_id:
            self._begin()
        self._number += 1
        if self._number > MOST_PARTS:
            raise given_up(f"{self._key} has more than {MOST_PARTS} blocks")
        block, size, self._block, self._filled = self._block, self._filled, bytearray(), 0
        thread = threading.Thread(
            target=self._send, args=(self._number, block, size), name=f"upload-{self._number}", daemon=True
        )
        with self._state:
            self._threads.add(thread)
        thread.start()

    def _begin(self) -> None:
        parameters = dict(self._bucket.parameters)
        if self._bucket.checksums_by_boto:
            parameters.setdefault("ChecksumAlgorithm", "CRC32")
        begun = self._call(
            lambda: self._bucket.client.create_multipart_upload(**self._bucket.place(self._key), **parameters)
        )
        with self._state:
            self._upload_id = begun["UploadId"]
            too_late = self._stop.is_set()
        if too_late:  # abort has come meanwhile and knew of no upload
            self._bucket.abort_by_id(self._key, self._upload_id, self._bucket.brief)
            raise given_up(self._key)

    def _send(self, number: int, block: bytearray, size: int) -> None:
        try:
            view = memoryview(block)[:size]
            where = {**self._bucket.place(self._key), "UploadId": self._upload_id, "PartNumber": number}
            where |= self._digest(view)
            answer = self._call(lambda: self._bucket.client.upload_part(**where, Body=_Body(view, self._stop)))
            checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
            self._parts[number] = {"PartNumber": number, "ETag": answer["ETag"], **checksums}
        except BaseException as error:  # noqa: BLE001  (carried to the thread that writes, which raises it)
            with self._state:
                self._failure = self._failure or error
        finally:
            with self._state:
                if size == BLOCK_BYTES:
                    self._spare.append(block)
                self._threads.discard(threading.current_thread())
                self._state.notify_all()

    def _put(self) -> None:
        view = memoryview(self._block)[: self._filled]
        where = {**self._bucket.place(self._key), **self._bucket.parameters, **self._digest(view)}
        self._call(lambda: self._bucket.client.put_object(**where, Body=_Body(view, self._stop)))

    def _join(self) -> None:
        """Complete the upload. An answer that was lost is not a failure: an earlier try may have completed it."""
        parts = {"Parts": [self._parts[number] for number in range(1, self._number + 1)]}
        where = {**self._bucket.place(self._key), "UploadId": self._upload_id}
        tries = 0

        def act() -> None:
            nonlocal tries
            tries += 1
            try:
                self._bucket.client.complete_multipart_upload(**where, MultipartUpload=parts)
            except ClientError as error:
                if tries == 1 or error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                    raise
                log.info("upload_completed_before", key=self._key)

        self._call(act)

    def _confirm(self) -> None:
        """Read the size back: some servers complete an upload from which a part is missing."""
        found = self._bucket.stat(self._key)
        if found is None:
            raise ObjectMissing(f"{self._key} was completed and is not there.", remedy="See the server's log.")
        if found.size != self._written:
            raise StorageUnavailable(
                f"{self._key} has {found.size} bytes in the store and {self._written} were written.",
                remedy="See the server's log; the set will be tried again.",
            )

    def _call(self, act: Callable[[], Any]) -> Any:
        try:
            return self._bucket.calls.call(self._key, act, stop=self._stop)
        except ObjectMissing as error:
            raise StorageUnavailable(
                f"The upload of {self._key} is gone: aborted by a janitor, a rule of the bucket or a person.",
                remedy="Begin it anew; let a lifecycle rule abort uploads after a day or later.",
            ) from error

    def _digest(self, view: memoryview) -> dict[str, str]:
        """Lets the server refuse what was damaged on the way; every server knows MD5."""
        if self._bucket.checksums_by_boto:
            return {}
        digest = hashlib.md5(view, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}


class _Body(io.RawIOBase):
    """A block as a file that cannot be read any more once the upload is given up: that ends a slow send."""

    def __init__(self, view: memoryview, stop: threading.Event) -> None:
        self._view, self._stop, self._at = view, stop, 0

    def __len__(self) -> int:
        return len(self._view)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        if self._stop.is_set():
            raise OSError("the upload was given up")
        count = max(0, min(len(buffer), len(self._view) - self._at))
        buffer[:count] = self._view[self._at : self._at + count]
        self._at += count
        return count
