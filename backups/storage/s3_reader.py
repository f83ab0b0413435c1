"""One object on its way out of a bucket. A connection that breaks is taken up again at the byte where it broke."""

from __future__ import annotations

import io
import threading
from typing import Any

from botocore.exceptions import ClientError

from backups.errors import StorageRefused, StorageUnavailable

from .s3_calls import BROKEN, Calls, code_of, status_of


class S3Reader(io.RawIOBase):
    """The bytes from ``start``; at or behind the object's end there are none."""

    def __init__(self, client: Any, calls: Calls, place: dict[str, str], what: str, start: int) -> None:
        super().__init__()
        self._client, self._calls, self._place, self._what = client, calls, place, what
        self._at, self._size, self._etag = start, -1, ""
        self._failures = 0
        self._closing = threading.Event()
        self._body: Any = None
        self._open()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while self._at < self._size:
            try:
                data = self._body.read(min(len(buffer), self._size - self._at))
                if not data:
                    raise ConnectionResetError("the answer ended early")
            except BROKEN as error:
                self._resume(error)
                continue
            buffer[: len(data)] = data
            self._at += len(data)
            self._failures = 0
            return len(data)
        return 0

    def close(self) -> None:
        if not self.closed:
            self._closing.set()
            self._end()
        super().close()

    def _resume(self, error: BaseException) -> None:
        self._failures += 1
        self._end()
        wait_seconds = self._calls.wait_seconds(self._failures)
        if wait_seconds is None or self._closing.wait(wait_seconds):
            raise self._calls.told(error, f"{self._what} from byte {self._at}", self._failures) from error
        self._open()

    def _open(self) -> None:
        ranged = {"Range": f"bytes={self._at}-"} if self._at else {}

        def act() -> Any:
            try:
                return self._client.get_object(**self._place, **ranged)
            except ClientError as error:
                if self._at and (status_of(error) == 416 or code_of(error) == "InvalidRange"):
                    return None
                raise

        answer = self._calls.call(self._what, act, stop=self._closing)
        if answer is None:
            self._ended()
            return
        self._body = answer["Body"]
        if self._at and not str(answer.get("ContentRange", "")).startswith(f"bytes {self._at}-"):
            self._end()
            raise StorageRefused(f"{self._what}: the server does not give parts of objects.", remedy="Use another one.")
        size, etag = self._at + int(answer["ContentLength"]), str(answer.get("ETag", ""))
        if self._size >= 0 and (size, etag) != (self._size, self._etag):
            self._end()
            raise StorageUnavailable(f"{self._what} was replaced while it was read.", remedy="Read it again.")
        self._size, self._etag = size, etag

    def _ended(self) -> None:
        if self._size >= 0:
            raise StorageUnavailable(f"{self._what} became shorter while it was read.", remedy="Read it again.")
        self._size = self._at

    def _end(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
