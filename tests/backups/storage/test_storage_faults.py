"""Stores that fail while they are used: what becomes visible, what is left behind, what is said."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from backups.errors import ObjectMissing, StorageRefused, StorageUnavailable
from backups.storage.base import ObjectWriter
from backups.storage.local import MARK, LocalStorage
from backups.storage.s3 import S3Storage
from backups.storage.s3_calls import Patience
from tests import needs
from tests.backups.servers.faults import FaultProxy, fault_proxy
from tests.backups.servers.s3 import SECRET_KEY, TESTS, S3Server

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
    proxy.on("UploadPart", part=2, slow_seconds=4)
    hasty = Patience(attempts=4, first_wait_seconds=0.01, connect_seconds=1, read_seconds=1)
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
    fault = proxy.on("UploadPart", slow_seconds=3, times=3)
    began = time.monotonic()
    with through.open_writer(KEY) as writer:
        threading.Timer(1, writer.abort).start()
        with pytest.raises(StorageUnavailable, match="given up"):
            write_for_ever(writer)
        assert time.monotonic() - began < 2
    assert fault.fired == 3
    assert time.monotonic() - began < 10
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
    from dataclasses import replace

    bucket = rclone_server.make_bucket()
    connection = replace(rclone_server.connection(bucket), secret_access_key="wrongwrongwrong")
    with pytest.raises(StorageRefused, match="secret key") as caught:
        S3Storage(connection, patience=TESTS).get(KEY)
    assert "wrongwrongwrong" not in str(caught.value)


# ---- a directory ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", root], capture_output=True, check=False)
    if mounted.returncode:
        needs.leave_out(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    yield root
    subprocess.run(["umount", "-l", root], check=True)


def test_a_full_disk_is_told_as_such_and_leaves_the_store_as_it_was(small_disk: Path) -> None:
    storage = LocalStorage(small_disk)
    storage.put("sets/earlier", b"e" * MIB)
    with storage.open_writer(KEY) as writer, pytest.raises(StorageRefused, match="no space left") as caught:
        write_for_ever(writer)
    assert "keep less" in caught.value.remedy
    assert [found.key for found in storage.list("")] == ["sets/earlier"]
    assert list(storage.uploads("")) == []
    assert storage.get("sets/earlier") == b"e" * MIB
    storage.put(KEY, b"fits again")
    space = storage.space()
    assert space is not None
    assert space.total_bytes == 8 * MIB
    assert 6 * MIB < space.free_bytes < 7 * MIB


def test_a_writer_that_failed_cannot_complete(small_disk: Path) -> None:
    storage = LocalStorage(small_disk)
    with storage.open_writer(KEY) as writer:
        with pytest.raises(StorageRefused, match="no space left"):
            writer.write(b"x" * 9 * MIB)
        with pytest.raises(StorageUnavailable, match="failed before"):
            writer.complete()
    assert list(storage.list("")) == []


def test_a_limit_on_the_size_of_files_is_told_as_no_space(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
        with pytest.raises(StorageRefused, match="no space left"):
            storage.put(KEY, b"x" * 2 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(storage.list("")) == []
    assert list(storage.uploads("")) == []


def test_a_read_only_disk_refuses_to_write_and_to_delete(small_disk: Path) -> None:
    storage = LocalStorage(small_disk)
    storage.put("sets/a", b"x")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageRefused, match="for writing"):
        storage.put("sets/b", b"x")
    with pytest.raises(StorageRefused, match="for writing"):
        storage.check()
    assert "may not be used" in storage.delete(["sets/a"])["sets/a"]
    assert storage.get("sets/a") == b"x"
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert storage.delete(["sets/a"]) == {}


def test_a_disk_that_is_not_mounted_is_unavailable_and_no_object_seems_missing(small_disk: Path) -> None:
    storage = LocalStorage(small_disk, marked=True)
    LocalStorage(small_disk).put("sets/a", b"x")
    assert (small_disk / MARK).exists()
    assert storage.stat("sets/none") is None
    subprocess.run(["umount", small_disk], check=True)
    try:
        for act in (
            lambda: storage.stat("sets/a"),
            lambda: storage.get("sets/a"),
            lambda: storage.put("sets/b", b"x"),
            lambda: list(storage.list("")),
            lambda: storage.delete(["sets/a"]),
            storage.check,
        ):
            with pytest.raises(StorageUnavailable, match="mark"):
                act()
        assert list(small_disk.iterdir()) == []
    finally:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", small_disk], check=True)


def test_a_file_that_cannot_be_deleted_is_told_and_can_be_deleted_later(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("sets/a", b"x")
    storage.put("sets/b", b"x")
    path = tmp_path / "sets" / "a"
    locked = subprocess.run(["chattr", "+i", path], capture_output=True, check=False)
    if locked.returncode:
        needs.leave_out("chattr +i does not work on this file system")
    try:
        kept = storage.delete(["sets/a", "sets/b"])
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    assert list(kept) == ["sets/a"]
    assert "not permitted" in kept["sets/a"]
    assert [found.key for found in storage.list("")] == ["sets/a"]
    assert storage.delete(["sets/a"]) == {}
    assert not (tmp_path / "sets").exists()


def test_a_link_that_leads_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    storage = LocalStorage(root)
    (root / "sets").symlink_to(outside)
    (root / "link").symlink_to(outside / "secret")
    from controlplane.kernel.errors import Refused

    for act in (
        lambda: storage.put("sets/new", b"x"),
        lambda: storage.get("sets/secret"),
        lambda: storage.delete(["sets/secret"]),
        lambda: storage.stat("sets/secret"),
    ):
        with pytest.raises(Refused, match="symbolic link"):
            act()
    assert storage.stat("link") is None
    with pytest.raises((StorageUnavailable, ObjectMissing)):
        storage.get("link")
    assert list(storage.list("")) == []
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from backups.storage.local import LocalStorage
with LocalStorage(Path(sys.argv[1])).open_writer(sys.argv[2]) as writer:
    for number in range(100_000):
        writer.write(b"x" * 65536)
        print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_an_upload_and_no_object(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), KEY], stdout=subprocess.PIPE, cwd=Path.cwd(),
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert writer.stdout is not None
    with writer.stdout:
        for _ in range(10):
            writer.stdout.readline()
        writer.kill()
        writer.wait(10)
    assert writer.returncode == -signal.SIGKILL
    storage = LocalStorage(tmp_path)
    assert list(storage.list("")) == []
    assert storage.stat(KEY) is None
    (left,) = storage.uploads("sets/")
    assert left.key == KEY
    storage.abort_upload(left)
    assert list(storage.uploads("")) == []
    assert [path.name for path in tmp_path.iterdir()] == [MARK]
