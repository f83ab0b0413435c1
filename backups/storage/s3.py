"""A store in a bucket, by boto3's low-level calls.

django-storages configures the client and does nothing else here: its files complete an upload whose producer has
failed, and read an object to disk before they give its first byte.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

import structlog
from botocore.exceptions import ClientError

from backups.errors import ObjectMissing, StorageRefused, StorageUnavailable

from .base import ObjectInfo, Space, Upload
from .connection import Connection
from .names import checked_key, checked_prefix, is_key
from .s3_calls import BRIEF, Calls, Patience, client_for, code_of, status_of
from .s3_reader import S3Reader
from .s3_writer import S3Writer
from .selftest import FOLDER, round_trip

log = structlog.get_logger(__name__)

_READ_BYTES = 2**20


class S3Storage:
    """The store below ``prefix`` in the connection's bucket. Threads may share it."""

    def __init__(
        self, connection: Connection, *, prefix: str = "", patience: Patience | None = None, page_size: int = 1000
    ) -> None:
        self._connection, self._patience, self._page_size = connection, patience or Patience(), page_size
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.calls = Calls(connection, self._patience)
        self.brief = Calls(connection, BRIEF)
        self.client, self.parameters = self.calls.call(
            connection.bucket, lambda: client_for(connection, self._patience)
        )
        self.checksums_by_boto = connection.checksum_mode == "when_supported"
        self._bulk_works = True

    def __repr__(self) -> str:
        return f"S3Storage('s3://{self._connection.bucket}/{self._prefix}')"

    def place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._connection.bucket, "Key": self._prefix + checked_key(key)}

    def open_writer(self, key: str) -> S3Writer:
        return S3Writer(self, checked_key(key))

    def put(self, key: str, body: bytes) -> None:
        with self.open_writer(key) as writer:
            writer.write(body)
            writer.complete()

    @contextmanager
    def open_reader(self, key: str, *, start: int = 0) -> Iterator[BinaryIO]:
        with io.BufferedReader(self._raw(key, start), _READ_BYTES) as reader:
            yield cast("BinaryIO", reader)

    def get(self, key: str, *, most: int = 64 * 2**20) -> bytes:
        with self.open_reader(key) as reader:
            body = reader.read(most + 1)
        if len(body) > most:
            raise StorageRefused(
                f"{key} has more bytes than the at most {most} expected.", remedy="Look at what it is."
            )
        return body

    def stat(self, key: str) -> ObjectInfo | None:
        place = self.place(key)

        def act() -> Any:
            try:
                return self.client.head_object(**place)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise

        found = self.calls.call(key, act)
        if found is None:
            self._bucket_is_there(self.calls)
            return None
        return ObjectInfo(key, int(found["ContentLength"]), found["LastModified"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        where = {"Bucket": self._connection.bucket, "Prefix": self._prefix + checked_prefix(prefix)}
        more: dict[str, Any] = {}
        while True:
            page = self._page(prefix, self.client.list_objects_v2, {**where, **more, "MaxKeys": self._page_size})
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(self._prefix)
                if is_key(key):  # others may keep other things in the bucket
                    yield ObjectInfo(key, int(entry["Size"]), entry["LastModified"])
            if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        for key in keys:
            checked_key(key)
        kept: dict[str, str] = {}
        for start in range(0, len(keys), self._page_size):
            some = list(keys[start : start + self._page_size])
            kept |= self._delete_in_bulk(some) if self._bulk_works else self._delete_singly(some)
        for key in keys:
            if key not in kept and self.stat(key) is not None:
                kept[key] = "It is still there after it was deleted: a lock, or a copy behind the server."
        return kept

    def uploads(self, prefix: str) -> Iterator[Upload]:
        where = {"Bucket": self._connection.bucket, "Prefix": self._prefix + checked_prefix(prefix)}
        more: dict[str, Any] = {"MaxUploads": self._page_size}
        while True:
            page = self._known(self.client.list_multipart_uploads, prefix, {**where, **more}, self.calls)
            for entry in page.get("Uploads", ()):
                key = entry["Key"].removeprefix(self._prefix)
                if is_key(key):
                    yield Upload(key, entry["UploadId"], entry["Initiated"])
            if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
                return
            more |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    def abort_upload(self, upload: Upload) -> None:
        self.abort_by_id(upload.key, upload.upload_id, self.calls)

    def abort_by_id(self, key: str, upload_id: str, calls: Calls) -> None:
        """Abort until nothing is listed: a part that was under way may arrive after the first time."""
        where = {**self.place(key), "UploadId": upload_id}
        for _ in range(3):
            with suppress(ObjectMissing):
                calls.call(key, lambda: self.client.abort_multipart_upload(**where))
            if not self._known(self.client.list_parts, key, {**where, "MaxParts": 1}, calls):
                return
        raise StorageUnavailable(f"The upload of {key} is still there after it was aborted.", remedy="Try it again.")

    def space(self) -> Space | None:
        return None

    def check(self) -> None:
        brief = S3Storage.__new__(S3Storage)
        brief.__dict__ |= {**self.__dict__, "calls": self.brief}
        self._bucket_is_there(self.brief)
        round_trip(brief)
        key = f"{FOLDER}{secrets.token_hex(8)}"
        with S3Writer(brief, key, always_multipart=True) as writer:
            writer.write(b"x")
            writer.complete()
        kept = brief.delete([key])
        if kept:
            raise StorageRefused(kept[key], remedy="Let the key delete what it has written.")

    def _raw(self, key: str, start: int) -> S3Reader:
        try:
            return S3Reader(self.client, self.calls, self.place(key), key, start)
        except ObjectMissing:
            self._bucket_is_there(self.calls)
            raise

    def _bucket_is_there(self, calls: Calls) -> None:
        """Only of a bucket that is there can it be said that it lacks an object."""

        def act() -> None:
            try:
                self.client.head_bucket(Bucket=self._connection.bucket)
            except ClientError as error:
                if status_of(error) != 404:
                    raise
                raise StorageRefused(
                    f"There is no bucket {self._connection.bucket}.",
                    remedy="Create the bucket, or correct its name in the storage target.",
                ) from None

        calls.call(self._connection.bucket, act)

    def _page(self, prefix: str, operation: Any, arguments: dict[str, Any]) -> Any:
        return self.calls.call(prefix or self._connection.bucket, lambda: operation(**arguments))

    def _known(self, operation: Any, what: str, arguments: dict[str, Any], calls: Calls) -> Any:
        """A list about unfinished uploads; empty where there are none, and where the server cannot list them."""

        def act() -> Any:
            try:
                return operation(**arguments)
            except ClientError as error:
                if status_of(error) in {405, 501}:
                    log.warning("uploads_cannot_be_listed", bucket=self._connection.bucket)
                    return {}
                if code_of(error) == "NoSuchUpload":  # rclone says so of a bucket without any
                    return {}
                raise

        return calls.call(what or self._connection.bucket, act)

    def _delete_in_bulk(self, keys: Sequence[str]) -> dict[str, str]:
        wanted = {"Objects": [{"Key": self._prefix + key} for key in keys], "Quiet": True}

        def act() -> Any:
            try:
                return self.client.delete_objects(Bucket=self._connection.bucket, Delete=wanted)
            except ClientError as error:
                if status_of(error) in {400, 403, 405, 411, 501} and code_of(error) != "SlowDown":
                    return None  # not known, or not with the checksum that boto3 sends
                raise

        answer = self.calls.call("a deletion", act)
        if answer is None:
            self._bulk_works = False
            return self._delete_singly(keys)
        return {
            error["Key"].removeprefix(self._prefix): f"{error.get('Code', '')} {error.get('Message', '')}".strip()
            for error in answer.get("Errors", ())
            if error.get("Code") != "NoSuchKey"
        }

    def _delete_singly(self, keys: Sequence[str]) -> dict[str, str]:
        kept: dict[str, str] = {}
        for key in keys:
            place = self.place(key)
            try:
                self.calls.call(key, lambda place=place: self.client.delete_object(**place))  # type: ignore[misc]
            except ObjectMissing:
                continue
            except StorageRefused as refusal:
                kept[key] = str(refusal)
        return kept
