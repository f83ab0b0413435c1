"""What every store must do, whatever it is made of."""

from __future__ import annotations

import hashlib
import io
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from backups.errors import ObjectMissing, StorageRefused, StorageUnavailable
from backups.storage.base import Storage
from controlplane.kernel.errors import Refused

MIB = 2**20
SET = "sets/zantara/2026/11/0193/"


def write(storage: Storage, key: str, body: bytes, *, step: int = 3 * MIB + 17) -> None:
    with storage.open_writer(key) as writer:
        for start in range(0, len(body), step):
            writer.write(body[start : start + step])
        writer.complete()


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [found.key for found in storage.list(prefix)]


@pytest.mark.parametrize("size", [0, 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 50 * MIB + 3])
def test_what_is_written_is_what_is_read(storage: Storage, size: int) -> None:
    body = secrets.token_bytes(size)
    write(storage, SET + "a/part-00001.age", body)
    found = storage.stat(SET + "a/part-00001.age")
    assert found is not None
    assert (found.key, found.size) == (SET + "a/part-00001.age", size)
    assert abs(found.modified_at - datetime.now(UTC)) < timedelta(minutes=2)
    with storage.open_reader(SET + "a/part-00001.age") as reader:
        digest = hashlib.sha256()
        while chunk := reader.read(MIB):
            digest.update(chunk)
    assert digest.digest() == hashlib.sha256(body).digest()


def test_a_memoryview_is_taken_like_bytes_and_may_be_used_again_at_once(storage: Storage) -> None:
    block = bytearray(b"a" * MIB)
    with storage.open_writer("sets/reused") as writer:
        for letter in b"abcdefghijklmnopqrstuvwxyz":
            block[:] = bytes([letter]) * MIB
            writer.write(memoryview(block))
        writer.complete()
    body = storage.get("sets/reused")
    assert [body[i * MIB] for i in range(26)] == list(b"abcdefghijklmnopqrstuvwxyz")
    assert len(body) == 26 * MIB


def test_a_read_counts_from_its_start_and_ends_with_the_object(storage: Storage) -> None:
    storage.put("sets/digits", b"0123456789")
    for start, rest in ((0, b"0123456789"), (3, b"3456789"), (9, b"9"), (10, b""), (25, b"")):
        with storage.open_reader("sets/digits", start=start) as reader:
            assert reader.read() == rest
    with storage.open_reader("sets/digits") as reader:
        assert (reader.read(4), reader.read(4), reader.read(4), reader.read(4)) == (b"0123", b"4567", b"89", b"")


def test_a_reader_is_a_stream_that_others_can_use(storage: Storage) -> None:
    storage.put("sets/lines", b"one\ntwo\nthree\n")
    with storage.open_reader("sets/lines") as reader:
        assert reader.readable()
        with io.TextIOWrapper(reader) as lines:
            assert list(lines) == ["one\n", "two\n", "three\n"]


def test_nothing_is_visible_before_complete(storage: Storage) -> None:
    with storage.open_writer(SET + "a") as writer:
        writer.write(b"x" * 40 * MIB)
        assert storage.stat(SET + "a") is None
        assert keys(storage) == []
        writer.complete()
        assert keys(storage) == [SET + "a"]
    assert keys(storage) == [SET + "a"]
    assert list(storage.uploads("")) == []


@pytest.mark.parametrize("size", [0, 100, 40 * MIB])
def test_a_writer_that_is_left_without_complete_leaves_nothing(storage: Storage, size: int) -> None:
    with suppress(ZeroDivisionError), storage.open_writer(SET + "a") as writer:
        writer.write(b"x" * size)
        raise ZeroDivisionError
    with storage.open_writer(SET + "b") as writer:
        writer.write(b"x" * size)
    assert keys(storage) == []
    assert list(storage.uploads("")) == []


def test_abort_may_come_twice_and_after_complete_does_nothing(storage: Storage) -> None:
    with storage.open_writer("sets/kept") as writer:
        writer.write(b"kept")
        writer.complete()
        writer.abort()
    with storage.open_writer("sets/dropped") as writer:
        writer.write(b"dropped")
        writer.abort()
        writer.abort()
        with pytest.raises(StorageUnavailable, match="given up"):
            writer.write(b"more")
        with pytest.raises(StorageUnavailable, match="given up"):
            writer.complete()
    assert keys(storage) == ["sets/kept"]
    assert storage.get("sets/kept") == b"kept"


def test_an_aborted_writer_leaves_the_object_that_was_there(storage: Storage) -> None:
    storage.put("sets/kept", b"old")
    with storage.open_writer("sets/kept") as writer:
        writer.write(b"n" * 20 * MIB)
    assert storage.get("sets/kept") == b"old"


def test_a_second_object_of_the_same_key_takes_its_place(storage: Storage) -> None:
    storage.put("sets/one", b"first")
    storage.put("sets/one", b"second")
    assert storage.get("sets/one") == b"second"
    write(storage, "sets/one", b"third" * 5 * MIB)
    assert storage.get("sets/one") == b"third" * 5 * MIB
    assert keys(storage) == ["sets/one"]


def test_small_objects_are_got_whole_and_large_ones_are_refused(storage: Storage) -> None:
    storage.put("sets/small", b"12345")
    assert storage.get("sets/small", most=5) == b"12345"
    with pytest.raises(StorageRefused, match="at most 4"):
        storage.get("sets/small", most=4)


def test_an_absent_object_is_missing_and_not_unavailable(storage: Storage) -> None:
    storage.put("sets/a/b", b"1")
    for key in ("sets/other", "sets/a", "sets/a/b/c"):
        assert storage.stat(key) is None
        with pytest.raises(ObjectMissing, match=key):
            storage.get(key)
        with pytest.raises(ObjectMissing, match=key), storage.open_reader(key) as reader:
            reader.read()


def test_the_list_has_every_object_below_a_folder_in_the_order_of_keys(storage: Storage) -> None:
    names = ["a/1", "a-b", "a.b/x", "a/0/deep/er", "a_b", "ab", "B", "a/10", "a/2"]
    for name in names:
        storage.put(f"sets/{name}", name.encode())
    storage.put("other/x", b"x")
    assert keys(storage, "sets/") == sorted(f"sets/{name}" for name in names)
    assert keys(storage, "sets/a/") == ["sets/a/0/deep/er", "sets/a/1", "sets/a/10", "sets/a/2"]
    assert keys(storage) == ["other/x", *sorted(f"sets/{name}" for name in names)]
    assert keys(storage, "sets/none/") == []
    assert [found.size for found in storage.list("sets/a/0/")] == [len("a/0/deep/er")]


def test_a_list_longer_than_a_page_is_whole(storage: Storage) -> None:
    wanted = [f"sets/many/{number:04}" for number in range(35)]  # the buckets of this suite have pages of 10
    for key in wanted:
        storage.put(key, b"x")
    assert keys(storage, "sets/many/") == wanted
    assert storage.delete(wanted) == {}
    assert keys(storage) == []


def test_deleting_says_what_is_still_there(storage: Storage) -> None:
    for name in "abc":
        storage.put(f"sets/{name}", b"x")
    assert storage.delete(["sets/a", "sets/absent", "sets/c"]) == {}
    assert keys(storage) == ["sets/b"]
    assert storage.delete([]) == {}


def test_an_unfinished_upload_is_found_and_aborted_and_its_writer_cannot_complete(storage: Storage) -> None:
    with storage.open_writer(SET + "a/part-00001.age") as writer:
        writer.write(secrets.token_bytes(40 * MIB))
        found = list(storage.uploads(SET))
        assert [upload.key for upload in found] == [SET + "a/part-00001.age"]
        if found[0].started_at.year != 2010:  # moto's answer, always
            assert abs(found[0].started_at - datetime.now(UTC)) < timedelta(minutes=2)
        assert list(storage.uploads("other/")) == []
        storage.abort_upload(found[0])
        storage.abort_upload(found[0])
        assert list(storage.uploads("")) == []
        with pytest.raises((StorageUnavailable, StorageRefused)):
            writer.complete()
    assert keys(storage) == []


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "/etc/passwd", "a//b", ".hidden", "a/.x", "", "a/", "a\\b", "ü", "a\nb"]
)
def test_a_key_that_could_mean_another_place_is_refused(storage: Storage, key: str) -> None:
    for act in (
        storage.stat,
        storage.get,
        storage.open_writer,
        lambda k: storage.put(k, b"x"),
        lambda k: storage.delete([k]),
    ):
        with pytest.raises(Refused, match="no key"):
            act(key)
    with pytest.raises(Refused, match="no key"), storage.open_reader(key):
        raise AssertionError
    with pytest.raises(Refused, match="no folder"):
        list(storage.list("sets"))
    assert keys(storage) == []


def test_the_check_passes_and_leaves_nothing(storage: Storage) -> None:
    storage.check()
    assert keys(storage) == []
    assert list(storage.uploads("")) == []


def test_a_store_shows_no_credential_when_it_is_printed(storage: Storage) -> None:
    assert "hunter2" not in f"{storage!r} {storage} {vars(storage)}"
