"""Directories that fail while they are used: full, read-only, not mounted, and their writers killed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from backups.errors import ObjectMissing, StorageRefused, StorageUnavailable
from backups.storage.base import ObjectWriter
from backups.storage.local import MARK, LocalStorage
from controlplane.kernel.errors import Refused
from tests import needs

pytestmark = pytest.mark.faults

MIB = 2**20
KEY = "sets/zantara/2026/11/0193/files/part-00001.age"


def write_for_ever(writer: ObjectWriter) -> NoReturn:
    while True:
        writer.write(b"x" * MIB)


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


def test_folders_that_come_and_go_under_many_writers_lose_no_object(tmp_path: Path) -> None:
    """Deleting removes folders that have become empty while others are about to write into them."""
    storage = LocalStorage(tmp_path)

    def come_and_go(name: int) -> int:
        for _ in range(60):
            storage.put(f"sets/p/2026/11/{name}", b"x" * 100)
            assert storage.get(f"sets/p/2026/11/{name}") == b"x" * 100
            assert storage.delete([f"sets/p/2026/11/{name}"]) == {}
        storage.put(f"sets/p/2026/11/{name}", b"kept")
        return name

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(come_and_go, range(4))) == [0, 1, 2, 3]
    assert [found.key for found in storage.list("")] == [f"sets/p/2026/11/{name}" for name in range(4)]
    assert list(storage.uploads("")) == []
