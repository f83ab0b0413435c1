"""Buckets that fail while they are used: what becomes visible, what is left behind, what is said."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import pytest

from backups.errors import StorageRefused, StorageUnavailable
from backups.storage.base import ObjectWriter
from backups.storage.local import LocalStorage
from backups.storage.s3 import S3Storage
from backups.storage.s3_calls import Patience
from tests.backups.servers.faults import FaultProxy, fault_proxy
from tests.backups.servers.s3 import SECRET_KEY, TESTS, S3Server
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.faults

MIB = 2**20
KEY = "sets/zantara/2026/11/0193/files/part-00001.age"
#: Four blocks: a first, two in the middle, and a last that is not full.
BODY = secrets.token_bytes(49 * MIB)


@pytest.fixture(params=["rclone", "moto"])
def server(request: pytest.FixtureRequest) -> S3Server:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as made:
        yield made


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.make_bucket()


@pytest.fixture
def through(server: S3Server, proxy: FaultProxy, bucket: str) -> S3Storage:
    """The store as the faults spoil it."""
    return server.storage(bucket, url=proxy.url)


@pytest.fixture
def straight(server: S3Server, bucket: str) -> S3Storage:
    """The same store as it really is."""
    return server.storage(bucket)


def upload(storage: S3Storage, body: bytes = BODY) -> None:
    with storage.open_writer(KEY) as writer:
        for start in range(0, len(body), MIB):
            writer.write(body[start : start + MIB])
        writer.complete()


def write_for_ever(writer: ObjectWriter) -> NoReturn:
    while True:
        writer.write(b"x" * MIB)


def digest_of(storage: S3Storage | LocalStorage, key: str = KEY) -> str:
    digest = hashlib.sha256()
    with storage.open_reader(key) as reader:
        while chunk := reader.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def assert_nothing_left(storage: S3Storage) -> None:
    assert storage.stat(KEY) is None
    assert list(storage.list("")) == []
    assert list(storage.uploads("")) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("upload-")] == []


@pytest.mark.parametrize("part", [1, 2, 4], ids=["first", "middle", "last"])
@pytest.mark.parametrize(
    "act",
    [
        {"status": 500},
        {"status": 503, "code": "SlowDown"},
        {"reset": True},
        {"lose_answer": True},
        {"slow_seconds": 1.5},
    ],
    ids=["500", "503", "reset", "lost-answer", "slow"],
)
def test_a_part_that_fails_for_a_while_does_not_fail_the_upload(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage, part: int, act: dict[str, object]
) -> None:
    proxy.on("UploadPart", part=part, times=2, **act)
    upload(through)
    proxy.assert_all_fired()
    assert digest_of(straight) == hashlib.sha256(BODY).hexdigest()
    assert list(straight.uploads("")) == []


@pytest.mark.parametrize("part", [1, 2, 4], ids=["first", "middle", "last"])
@pytest.mark.parametrize("act", [{"status": 500}, {"reset": True}], ids=["500", "reset"])
def test_a_part_that_goes_on_failing_fails_the_upload_and_leaves_nothing(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage, part: int, act: dict[str, object]
) -> None:
    fault = proxy.on("UploadPart", part=part, times=1000, **act)
    with pytest.raises(StorageUnavailable, match="after 4 tries"):
        upload(through)
    assert fault.fired == 4
    assert_nothing_left(straight)


def test_a_part_slower_than_the_patience_is_sent_again(
    proxy: FaultProxy, server: S3Server, bucket: str, straight: S3Storage
) -> None:
    proxy.on("UploadPart", part=2, slow_seconds=30)
    hasty = Patience(attempts=6, first_wait_seconds=0.01, connect_seconds=5, read_seconds=10)
    upload(server.storage(bucket, url=proxy.url, patience=hasty))
    proxy.assert_all_fired()
    assert digest_of(straight) == hashlib.sha256(BODY).hexdigest()


def test_a_refused_part_fails_the_upload_at_once_and_says_why(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    fault = proxy.on("UploadPart", part=2, status=403, code="AccessDenied", times=1000)
    with pytest.raises(StorageRefused, match="may not do this"):
        upload(through)
    assert fault.fired == 1
    assert_nothing_left(straight)


@pytest.mark.parametrize(
    "act",
    [
        {"error_in_200": True},
        {"error_in_200": True, "after": True},
        {"lose_answer": True},
        {"status": 500},
        {"reset": True},
    ],
    ids=["200-error", "200-error-but-done", "lost-answer", "500", "reset"],
)
def test_a_completion_that_fails_once_is_asked_again(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage, act: dict[str, object]
) -> None:
    proxy.on("CompleteMultipartUpload", **act)
    upload(through)
    assert digest_of(straight) == hashlib.sha256(BODY).hexdigest()
    proxy.assert_all_fired()
    assert list(straight.uploads("")) == []


def test_a_completion_that_answers_200_with_an_error_each_time_is_no_success(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    fault = proxy.on("CompleteMultipartUpload", error_in_200=True, times=1000)
    with pytest.raises(StorageUnavailable, match="InternalError"):
        upload(through)
    assert fault.fired == 4
    assert_nothing_left(straight)


def test_an_upload_that_cannot_be_begun_leaves_nothing(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    proxy.on("CreateMultipartUpload", status=500, times=1000)
    with pytest.raises(StorageUnavailable):
        upload(through)
    proxy.assert_all_fired()
    assert_nothing_left(straight)


def test_a_small_object_that_fails_for_a_while_arrives(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    proxy.on("PutObject", status=500)
    proxy.on("PutObject", reset=True)
    proxy.on("PutObject", lose_answer=True)
    through.put("sets/COMMIT", b"{}")
    proxy.assert_all_fired()
    assert straight.get("sets/COMMIT") == b"{}"


def test_an_upload_that_is_given_up_ends_soon_though_the_server_hangs(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    fault = proxy.on("UploadPart", slow_seconds=10, times=3)
    given_up_at: list[float] = []

    def give_up() -> None:
        deadline = time.monotonic() + 60
        while fault.fired < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)  # the last part's way to the server
        given_up_at.append(watch.seconds)
        writer.abort()

    with Stopwatch() as watch:
        with through.open_writer(KEY) as writer:
            giving_up = threading.Thread(target=give_up)
            giving_up.start()
            with pytest.raises(StorageUnavailable, match="given up"):
                write_for_ever(writer)
            assert watch.seconds - given_up_at[0] < 1
        assert watch.seconds - given_up_at[0] < 20
        giving_up.join()
    assert fault.fired == 3
    assert_nothing_left(straight)


@pytest.mark.parametrize("cut_after", [0, 1, 7 * MIB + 5])
def test_a_read_that_breaks_is_taken_up_where_it_broke(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage, cut_after: int
) -> None:
    upload(straight)
    proxy.on("GetObject", cut_after=cut_after)
    proxy.on("GetObject", cut_after=cut_after, where=lambda asked: asked.range_from > 0 or cut_after == 0)
    proxy.on("GetObject", status=503, code="SlowDown")
    proxy.on("GetObject", reset=True)
    assert digest_of(through) == hashlib.sha256(BODY).hexdigest()
    proxy.assert_all_fired()
    assert proxy.asked[-1].range_from == 2 * cut_after


def test_a_read_that_breaks_again_and_again_while_it_moves_comes_to_its_end(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    upload(straight)
    fault = proxy.on("GetObject", cut_after=3 * MIB, times=1000, where=lambda asked: asked.range_from < 40 * MIB)
    assert digest_of(through) == hashlib.sha256(BODY).hexdigest()
    assert fault.fired >= 10


def test_a_read_that_does_not_move_any_more_is_unavailable_and_not_short(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    upload(straight)
    proxy.on("GetObject", cut_after=5 * MIB)
    proxy.on("GetObject", cut_after=0, times=1000)
    with pytest.raises(StorageUnavailable):
        digest_of(through)
    proxy.assert_all_fired()


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    upload(straight)
    proxy.on("GetObject", cut_after=9 * MIB)
    with through.open_reader(KEY) as reader:
        assert reader.read(MIB) == BODY[:MIB]
        upload(straight, secrets.token_bytes(len(BODY)))
        with pytest.raises(StorageUnavailable, match="replaced"):
            reader.read(len(BODY))
    proxy.assert_all_fired()


def test_a_server_in_trouble_is_unavailable_whatever_is_asked_and_no_object_seems_missing(
    proxy: FaultProxy, through: S3Storage
) -> None:
    for operation in ("HeadObject", "GetObject", "ListObjects", "HeadBucket", "ListMultipartUploads", "DeleteObjects"):
        proxy.on(operation, status=503, code="SlowDown", times=1000)
    for act in (
        lambda: through.stat(KEY),
        lambda: through.get(KEY),
        lambda: list(through.list("sets/")),
        lambda: list(through.uploads("")),
        lambda: through.delete([KEY]),
        through.check,
    ):
        with pytest.raises(StorageUnavailable):
            act()
    proxy.assert_all_fired()


def test_a_bucket_that_is_not_there_is_refused_and_no_object_seems_missing(server: S3Server) -> None:
    nowhere = server.storage("bucket-that-is-not-there")
    for act in (
        lambda: nowhere.stat(KEY),
        lambda: nowhere.get(KEY),
        lambda: nowhere.put(KEY, b"x"),
        lambda: list(nowhere.list("sets/")),
        lambda: list(nowhere.uploads("")),
        lambda: nowhere.delete([KEY]),
        nowhere.check,
    ):
        with pytest.raises(StorageRefused, match="Create the bucket"):
            act()


def test_a_server_that_is_away_is_unavailable(server: S3Server, bucket: str) -> None:
    away = server.storage(bucket, url="http://127.0.0.1:9")
    for act in (lambda: away.stat(KEY), lambda: away.put(KEY, b"x"), lambda: away.delete([KEY]), away.check):
        with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1:9"):
            act()


def test_bulk_deletion_that_a_server_does_not_know_is_done_one_by_one(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    for name in "abc":
        straight.put(f"sets/{name}", b"x")
    proxy.on("DeleteObjects", status=501, code="NotImplemented", times=1000)
    assert through.delete(["sets/a", "sets/b"]) == {}
    assert through.delete(["sets/c"]) == {}
    proxy.assert_all_fired()
    assert proxy.count("DeleteObjects") == 1
    assert list(straight.list("")) == []


def test_a_deletion_that_was_answered_and_not_done_is_told(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    straight.put("sets/a", b"x")
    straight.put("sets/b", b"x")
    proxy.on("DeleteObjects", status=501, code="NotImplemented")
    proxy.on("DeleteObject", key="sets/a", status=204)
    proxy.on("DeleteObject", key="sets/b", status=403, code="AccessDenied")
    kept = through.delete(["sets/a", "sets/b"])
    proxy.assert_all_fired()
    assert "still there" in kept["sets/a"]
    assert "AccessDenied" in kept["sets/b"]
    assert [found.key for found in straight.list("")] == ["sets/a", "sets/b"]
    assert through.delete(["sets/a", "sets/b"]) == {}
    assert list(straight.list("")) == []


def test_no_credential_is_told_or_logged(
    server: S3Server, rclone_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="backups")
    said = []
    for storage in (server.storage("nowhere"), rclone_server.storage("nowhere", url="http://127.0.0.1:9")):
        for act in (storage.check, lambda storage=storage: storage.get(KEY)):
            with pytest.raises((StorageRefused, StorageUnavailable)) as caught:
                act()
            said += [str(caught.value), repr(caught.value), repr(storage), str(vars(storage))]
    assert SECRET_KEY not in " ".join(said) + caplog.text


def test_a_wrong_secret_is_refused_with_what_to_do(rclone_server: S3Server) -> None:

    bucket = rclone_server.make_bucket()
    connection = replace(rclone_server.connection(bucket), secret_access_key="wrongwrongwrong")
    with pytest.raises(StorageRefused, match="secret key") as caught:
        S3Storage(connection, patience=TESTS).get(KEY)
    assert "wrongwrongwrong" not in str(caught.value)


def test_a_server_that_cannot_list_uploads_is_usable(
    proxy: FaultProxy, through: S3Storage, straight: S3Storage
) -> None:
    proxy.on("ListMultipartUploads", status=501, code="NotImplemented", times=1000)
    proxy.on("ListParts", status=501, code="NotImplemented", times=1000)
    through.check()
    with through.open_writer(KEY) as writer:
        writer.write(BODY)
    assert list(through.uploads("")) == []
    proxy.assert_all_fired()
    assert_nothing_left(straight)


UPLOAD_MUCH = """
import json, resource, sys
from backups.storage.s3 import S3Storage
from backups.storage.connection import Connection
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
storage = S3Storage(Connection(**json.load(sys.stdin)))
block, peaks = bytes(range(256)) * 4096, [peak()]
for key, size in (("sets/some", 128), ("sets/more", 512)):
    with storage.open_writer(key) as writer:
        for _ in range(size):
            writer.write(block)
        writer.complete()
    with storage.open_reader(key) as reader:
        while reader.read(2**20):
            pass
    peaks.append(peak())
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_object(rclone_server: S3Server) -> None:
    """MiB of peak memory: an upload needs four blocks of 16 MiB, whatever it uploads."""
    connection = asdict(rclone_server.connection(rclone_server.make_bucket()))
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD_MUCH], input=json.dumps(connection), capture_output=True, text=True, check=True,
        timeout=300, cwd=Path.cwd(),
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "DJANGO_SETTINGS_MODULE": "controlplane.settings"},
    )  # fmt: skip
    idle, some, more = json.loads(done.stdout)
    assert some - idle < 64 + 24, (idle, some, more)
    assert more - some < 16, (idle, some, more)
