"""Bytes on their way into a store: what becomes visible, when, and what an error leaves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pytest

from backups.errors import Cancelled, CaptureFailed, Damaged, StorageUnavailable
from backups.storage.local import LocalStorage
from backups.stream import store_stream
from controlplane.kernel.errors import ConfigurationError
from tests.stack import wait_for
from tests.stopwatch import Stopwatch

from .tools import FOLDER, Hurt, Key, cut, failing_writer, keep, noise, objects, part_file, read, reader_that, text


def store_it(storage: object, key: Key, chunks: Iterator[bytes], **options: object) -> object:
    wanted = {"level": 3, "finish": lambda: "ended", "recipients": [key.public], **options}
    return store_stream(chunks, storage=storage, folder=FOLDER, **wanted)  # type: ignore[arg-type]


def wait_for_parts(store: LocalStorage, number: int) -> None:
    wait_for(lambda: len(objects(store)) >= number, 30, f"{number} parts that are complete")


@pytest.mark.parametrize("level", [None, 1, 3, 12], ids=lambda level: f"level {level}")
@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_what_is_stored_comes_back(store: LocalStorage, key: Key, level: int | None, size: int) -> None:
    data = text(size)
    kept = keep(store, data, key, level=level)
    assert read(store, kept, key) == data
    assert (kept.plain_bytes, kept.plain_sha256) == (size, sha256(data).hexdigest())


def test_the_figures_are_those_of_the_bytes(store: LocalStorage, key: Key) -> None:
    data = text(2_000_000) + noise(150_000)
    stored, result = store_it(store, key, cut(data, 7_777), part_bytes=50_000)  # type: ignore[misc]
    files = sorted((store.root / FOLDER).iterdir())
    assert result == "ended"
    assert (
        [part.name for part in stored.parts]
        == [file.name for file in files]
        == [f"part-{number:05d}.age" for number in range(1, len(files) + 1)]
    )
    assert len(files) > 3
    assert [part.size for part in stored.parts] == [file.stat().st_size for file in files]
    assert {part.size for part in stored.parts[:-1]} == {50_000}
    assert [part.sha256 for part in stored.parts] == [sha256(file.read_bytes()).hexdigest() for file in files]
    whole = b"".join(file.read_bytes() for file in files)
    assert (stored.stored_bytes, stored.stored_sha256) == (len(whole), sha256(whole).hexdigest())
    assert (stored.plain_bytes, stored.plain_sha256) == (len(data), sha256(data).hexdigest())
    assert len(data) / 5 > stored.compressed_bytes > 150_000
    assert stored.stored_bytes > stored.compressed_bytes


@pytest.mark.parametrize(("size", "sizes"), [(200, [100, 100]), (201, [100, 100, 1]), (100, [100]), (99, [99])])
def test_a_stream_that_fills_its_last_part_exactly_has_no_empty_part(
    store: LocalStorage, key: Key, monkeypatch: pytest.MonkeyPatch, size: int, sizes: list[int]
) -> None:
    def copy(source: BinaryIO, sink: BinaryIO, _: object) -> None:
        """age's own header has a random length."""
        sink.write(source.read())

    monkeypatch.setattr("pyrage.encrypt_io", copy)
    kept = keep(store, noise(size), key, level=None, part_bytes=100)
    assert [part.size for part in kept.parts] == sizes
    assert b"".join(part_file(store, n + 1).read_bytes() for n in range(len(sizes))) == noise(size)


def test_every_recipient_can_open_it_and_nobody_else(store: LocalStorage, key: Key) -> None:
    from backups.errors import NoIdentity

    from .tools import new_key

    second, stranger = new_key(), new_key()
    kept = keep(store, text(1000), key, recipients=[key.public, second.public])
    assert read(store, kept, key) == read(store, kept, second) == text(1000)
    with pytest.raises(NoIdentity, match="not encrypted to this identity"):
        read(store, kept, stranger)


def test_nothing_is_encrypted_to_nobody(store: LocalStorage, key: Key) -> None:
    with pytest.raises(ConfigurationError, match="nobody"):
        keep(store, b"x", key, recipients=[])
    assert objects(store) == []


def test_the_producers_end_is_judged_before_the_last_part_is_visible(store: LocalStorage, key: Key) -> None:
    seen = []

    def finish() -> None:
        wait_for_parts(store, 2)
        time.sleep(0.3)  # a third would come now
        seen.extend(info.key for info in objects(store))

    keep(store, noise(250_000), key, level=None, part_bytes=100_000, finish=finish)
    assert seen == [f"{FOLDER}/part-00001.age", f"{FOLDER}/part-00002.age"]
    assert len(objects(store)) == 3


@pytest.mark.parametrize("parts", [0, 2], ids=["at once", "when two parts are complete"])
def test_a_producer_that_failed_leaves_nothing(store: LocalStorage, key: Key, parts: int) -> None:
    def finish() -> None:
        wait_for_parts(store, parts)
        raise CaptureFailed("It exited with 1.")

    with pytest.raises(CaptureFailed, match="exited with 1"):
        keep(store, noise(250_000), key, level=None, part_bytes=100_000, finish=finish)
    assert objects(store) == []
    assert [p for p in store.root.rglob("*") if p.is_file() and p.name != ".zantara-store"] == []


def test_a_producer_that_breaks_in_the_middle_leaves_nothing_and_is_closed(store: LocalStorage, key: Key) -> None:
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            yield noise(1_500_000)
            yield noise(1_500_000)
            raise CaptureFailed("It broke.")
        finally:
            closed.append(True)

    with pytest.raises(CaptureFailed, match="It broke"):
        store_it(store, key, chunks(), part_bytes=100_000)
    assert closed == [True]
    assert objects(store) == []


def test_a_producer_is_closed_when_the_store_fails(store: LocalStorage, key: Key) -> None:
    closed, fired = [], []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield noise(1_000_000)
        finally:
            closed.append(True)

    error = StorageUnavailable("The store is away.")
    hurt = Hurt(store, open_writer=failing_writer(store, fired, error, key_end="part-00003.age", at=10))
    with pytest.raises(StorageUnavailable, match="is away"):
        store_it(hurt, key, chunks(), part_bytes=500_000)
    assert (closed, fired) == ([True], ["fired"])
    assert objects(store) == []


@pytest.mark.parametrize("part", ["part-00001.age", "part-00002.age", "part-00003.age"])
@pytest.mark.parametrize("where", ["write", "complete"])
def test_a_store_that_fails_at_any_part_leaves_nothing(store: LocalStorage, key: Key, part: str, where: str) -> None:
    fired: list[str] = []
    error = StorageUnavailable("500 from the store.")
    hurt = Hurt(store, open_writer=failing_writer(store, fired, error, key_end=part, where=where))
    with pytest.raises(StorageUnavailable, match="500 from the store"):
        keep(hurt, noise(250_000), key, level=None, part_bytes=100_000)
    assert fired == ["fired"]
    assert objects(store) == []


def test_stop_ends_a_stream_whose_producer_blocks(store: LocalStorage, key: Key) -> None:
    woken, asked, watch = threading.Event(), [], Stopwatch()

    def chunks() -> Iterator[bytes]:
        yield noise(1_000_000)
        assert woken.wait(20)
        raise CaptureFailed("It was interrupted.")

    def stop() -> None:
        asked.append(watch.seconds)
        if len(asked) == 4:
            raise Cancelled("Somebody asked.")

    with watch, pytest.raises(Cancelled, match="Somebody asked"):
        store_it(store, key, chunks(), stop=stop, interrupt=woken.set)
    assert woken.is_set()
    assert len(asked) == 4
    assert max(b - a for a, b in itertools.pairwise(asked)) < 2  # 0.25 s, on a busy machine
    assert objects(store) == []


def test_stop_is_asked_while_the_producer_ends(store: LocalStorage, key: Key) -> None:
    halted, interrupted = threading.Event(), threading.Event()

    def stop() -> None:
        if halted.is_set():
            raise Cancelled("Somebody asked.")

    def finish() -> None:
        halted.set()
        assert interrupted.wait(30)

    with pytest.raises(Cancelled):
        store_it(store, key, cut(noise(1000), 10), stop=stop, finish=finish, interrupt=interrupted.set)
    assert objects(store) == []


def test_progress_is_told_in_the_callers_thread_and_ends_at_the_sums(store: LocalStorage, key: Key) -> None:
    told: list[tuple[int, int]] = []
    threads = set()

    def progress(plain: int, stored: int) -> None:
        told.append((plain, stored))
        threads.add(threading.current_thread().name)

    def slow() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.15)
            yield noise(600_000)

    stored, _ = store_it(store, key, slow(), progress=progress)  # type: ignore[misc]
    assert threads == {threading.current_thread().name}
    assert len(told) >= 2
    assert told == sorted(told)
    assert told[-1] == (stored.plain_bytes, stored.stored_bytes) == (2_400_000, stored.stored_bytes)


def test_an_error_of_progress_ends_the_stream(store: LocalStorage, key: Key) -> None:
    def progress(plain: int, stored: int) -> None:
        raise Cancelled("The lease is lost.")

    with pytest.raises(Cancelled):
        keep(store, noise(1000), key, progress=progress)


def test_an_error_at_the_very_end_leaves_nothing(store: LocalStorage, key: Key) -> None:
    def progress(plain: int, stored: int) -> None:
        if stored:
            raise Cancelled("The lease is lost.")

    with pytest.raises(Cancelled):
        keep(store, noise(1000), key, progress=progress)
    assert objects(store) == []


def test_a_store_that_keeps_less_than_it_took_is_found_out(store: LocalStorage, key: Key) -> None:
    def stat(path: str) -> object:
        info = store.stat(path)
        assert info is not None
        return type(info)(info.key, info.size - 1, info.modified_at)

    with pytest.raises(Damaged, match=r"took \d+ bytes .* holds \d+ bytes"):
        keep(Hurt(store, stat=stat), noise(1000), key)
    assert objects(store) == []


def test_a_store_that_lost_a_part_is_found_out(store: LocalStorage, key: Key) -> None:
    with pytest.raises(Damaged, match="holds nothing"):
        keep(Hurt(store, stat=lambda key: None), noise(1000), key)


def test_a_store_that_gives_other_bytes_back_is_found_out(store: LocalStorage, key: Key) -> None:
    hurt = Hurt(store, open_reader=reader_that(store, lambda key, body: body[:-1] + bytes([body[-1] ^ 1])))
    with pytest.raises(Damaged, match="other bytes"):
        keep(hurt, noise(1000), key)
    assert objects(store) == []


def test_parts_that_cannot_be_deleted_do_not_hide_why(store: LocalStorage, key: Key) -> None:
    def delete(keys: list[str]) -> dict[str, str]:
        raise StorageUnavailable("The store is away.")

    def finish() -> None:
        wait_for_parts(store, 2)
        raise CaptureFailed("It exited with 1.")

    hurt = Hurt(store, delete=delete)
    with pytest.raises(CaptureFailed, match="exited with 1"):
        keep(hurt, noise(250_000), key, level=None, part_bytes=100_000, finish=finish)
    assert "delete" in hurt.calls


def test_a_store_that_blocks_holds_the_producer_back(store: LocalStorage, key: Key) -> None:
    """Bounded queues: a producer never runs further ahead than the queues are long."""
    let_go, given = threading.Event(), []

    def open_writer(path: str) -> object:
        assert let_go.wait(20)
        return store.open_writer(path)

    def chunks() -> Iterator[bytes]:
        for number in range(64):
            given.append(number)
            yield noise(2**20)

    def watch() -> None:
        time.sleep(1.5)
        given.append(-1)
        let_go.set()

    thread = threading.Thread(target=watch)
    thread.start()
    store_it(Hurt(store, open_writer=open_writer), key, chunks(), level=None)
    thread.join()
    assert given.index(-1) < 24
    assert len(given) == 65


def test_the_plain_text_is_nowhere_in_the_store(store: LocalStorage, key: Key) -> None:
    secret = b"hunter2-hunter2-hunter2"
    keep(store, secret * 100, key, level=None)
    assert secret not in part_file(store, 1).read_bytes()


def test_a_folder_of_the_store_is_all_it_touches(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    keep(store, noise(1000), key)
    assert {info.key for info in objects(store)} == {f"{FOLDER}/part-00001.age"}
