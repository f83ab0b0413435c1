"""Vectors in Redis: exact search, whole imports, and pages that miss and repeat nothing."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from controlplane.kernel.errors import Refused, Unavailable
from examples.zantara import redis_store, vectors
from examples.zantara.embedding import DIMENSIONS, embed
from examples.zantara.vectors import Record, VectorStore, pack, unpack
from tests.stopwatch import Stopwatch


@pytest.fixture
def store(redis_url: str) -> Iterator[VectorStore]:
    client = redis_store.connect(redis_url)
    yield VectorStore(client)
    client.close()


def record(number: int, text: str = "") -> Record:
    text = text or f"text number {number}"
    return Record(id=f"r{number:05}", text=text, embedding=embed(text), metadata={"n": number})


def random_vector(source: random.Random) -> list[float]:
    return [source.gauss(0, 1) for _ in range(DIMENSIONS)]


def test_a_record_survives_packing_to_the_last_bit() -> None:
    first = unpack(pack(Record(id="ß", text="naïve “text”\n", embedding=embed("x"), metadata={"a": None, "b": 1.5})))
    assert unpack(pack(first)) == first
    assert (first.id, first.text, first.metadata) == ("ß", "naïve “text”\n", {"a": None, "b": 1.5})


@pytest.mark.parametrize("components", [[1.0] * 383, [0.0] * DIMENSIONS, [math.inf] * DIMENSIONS])
def test_a_vector_without_direction_or_of_another_size_is_never_packed(components: list[float]) -> None:
    with pytest.raises(ValueError, match=r"direction|components"):
        pack(Record(id="a", text="b", embedding=components))


def test_search_agrees_with_the_textbook_formula(store: VectorStore) -> None:
    source = random.Random(7)
    records = [Record(f"v{n}", "t", random_vector(source)) for n in range(120)]
    for one in records:
        store.add(one)
    question = random_vector(source)

    def cosine(one: Record) -> float:
        dot = sum(a * b for a, b in zip(one.embedding, question, strict=True))
        return dot / math.hypot(*one.embedding) / math.hypot(*question)

    expected = sorted(records, key=cosine, reverse=True)[:10]
    found = store.search(question, 10)
    assert [match.id for match in found] == [one.id for one in expected]
    assert [match.score for match in found] == pytest.approx([cosine(one) for one in expected], abs=1e-6)


def test_equal_scores_come_in_the_order_of_ids(store: VectorStore) -> None:
    for name in ("c", "a", "b"):
        store.add(Record(name, "same", embed("same")))
    assert [match.id for match in store.search(embed("same"), 3)] == ["a", "b", "c"]


def test_the_same_id_replaces_and_says_so(store: VectorStore) -> None:
    assert store.add(record(1, "old")) is False
    assert store.add(record(1, "new")) is True
    assert store.count() == 1
    assert [one.text for one in store.page(None)] == ["new"]


def test_a_deleted_record_is_gone_from_both_keys(store: VectorStore) -> None:
    store.add(record(1))
    assert store.delete("r00001") is True
    assert store.delete("r00001") is False
    assert (store.count(), store.page(None)) == (0, [])


def test_a_full_store_refuses_more_but_still_replaces(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_RECORDS", 2)
    store.add(record(1))
    store.add(record(2))
    with pytest.raises(Refused, match="room for 2 records"):
        store.add(record(3))
    assert store.add(record(2, "other words")) is True
    assert [one.id for one in store.page(None)] == ["r00001", "r00002"]


def test_a_merge_that_would_overfill_changes_nothing(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_RECORDS", 3)
    store.import_all([record(1), record(2)], "merge")
    with pytest.raises(Refused, match="room for 3 records"):
        store.import_all([record(2, "changed"), record(3), record(4)], "merge")
    assert [(one.id, one.text) for one in store.page(None)] == [
        ("r00001", "text number 1"),
        ("r00002", "text number 2"),
    ]


def test_merge_keeps_and_replace_removes_what_was_there(store: VectorStore, redis_client: redis.Redis) -> None:
    store.add(record(1))
    assert store.import_all([record(2)], "merge") == (1, 2)
    assert store.import_all([record(3), record(4)], "replace") == (2, 2)
    assert [one.id for one in store.page(None)] == ["r00003", "r00004"]
    assert store.import_all([], "replace") == (0, 0)
    assert redis_client.keys("*vectors*") == []


def test_imported_records_never_expire(store: VectorStore, redis_client: redis.Redis) -> None:
    store.import_all([record(1)], "replace")
    keys = redis_client.keys("*vectors*")
    assert len(keys) == 2
    assert {redis_client.ttl(key) for key in keys} == {-1}


def test_an_import_that_breaks_off_leaves_neither_changes_nor_staging(
    store: VectorStore, redis_client: redis.Redis
) -> None:
    store.add(record(1))

    def broken() -> Iterator[Record]:
        yield from (record(number) for number in range(2, 500))
        assert redis_client.keys("*staging*")  # the fault strikes while something is staged
        raise Refused("Line 500: wrong.")

    with pytest.raises(Refused, match="Line 500"):
        store.import_all(broken(), "replace")
    assert [one.id for one in store.page(None)] == ["r00001"]
    assert redis_client.keys("*staging*") == []


def test_an_import_whose_staging_was_lost_is_refused_instead_of_emptying_the_store(
    store: VectorStore, redis_client: redis.Redis
) -> None:
    store.add(record(1))

    def losing() -> Iterator[Record]:
        yield from (record(number) for number in range(2, 300))
        assert redis_client.delete(*redis_client.keys("*staging*")) == 2

    with pytest.raises(Refused, match="lost on the way"):
        store.import_all(losing(), "replace")
    assert [one.id for one in store.page(None)] == ["r00001"]


def test_a_search_during_imports_sees_one_of_them_whole(store: VectorStore, redis_url: str) -> None:
    sets = [[record(number, f"{word} {number}") for number in range(60)] for word in ("alpha", "omega")]
    store.import_all(sets[0], "replace")
    done = threading.Event()
    mixed: list[set[str]] = []
    searches = itertools.count()

    def search() -> None:
        with redis_store.connect(redis_url) as client:
            reader = VectorStore(client)
            while not done.is_set():
                words = {match.text.split()[0] for match in reader.search(embed("alpha omega"), 60)}
                next(searches)
                if len(words) != 1:
                    mixed.append(words)

    readers = [threading.Thread(target=search) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(40):
        store.import_all(sets[number % 2], "replace")
    done.set()
    for reader in readers:
        reader.join()
    assert mixed == []
    assert next(searches) >= 20


def test_pages_hold_every_lasting_record_once_while_others_come_and_go(
    store: VectorStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "PAGE_RECORDS", 7)
    lasting = [record(number) for number in range(0, 600, 2)]
    store.import_all(lasting, "replace")
    done = threading.Event()
    churned = itertools.count()

    def churn() -> None:
        source = random.Random(3)
        with redis_store.connect(redis_url) as client:
            writer = VectorStore(client)
            while not done.is_set():
                number = source.randrange(1, 600, 2)
                writer.add(record(number))
                writer.delete(f"r{source.randrange(1, 600, 2):05}")
                next(churned)

    writer = threading.Thread(target=churn)
    writer.start()
    while next(churned) < 20:
        time.sleep(0.01)
    for _ in range(5):
        ids: list[str] = []
        page = store.page(None)
        while page:
            ids += [one.id for one in page]
            page = store.page(page[-1].id)
        assert ids == sorted(ids)
        assert len(ids) == len(set(ids))
        assert set(ids) >= {one.id for one in lasting}
    done.set()
    writer.join()


def test_ids_of_all_scripts_are_paged_in_the_order_of_their_bytes(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "PAGE_RECORDS", 2)
    names = ["-", "(", "[", "+", "a", "é", "日本", "😀", "Z"]
    for name in names:
        store.add(Record(name, "t", embed("t")))
    found: list[str] = []
    page = store.page(None)
    while page:
        found += [one.id for one in page]
        page = store.page(page[-1].id)
    assert found == sorted(names, key=str.encode)


def test_a_dead_redis_is_unavailable_and_a_revived_one_works(redis_server_factory: Callable[..., Any]) -> None:
    server = redis_server_factory()
    with redis_store.connect(server.url) as client:
        store = VectorStore(client)
        store.add(record(1))
        server.kill()
        for act in (
            store.count,
            lambda: store.add(record(2)),
            lambda: store.search(embed("x"), 1),
            lambda: store.page(None),
        ):
            with pytest.raises(Unavailable, match="Redis did not answer"):
                act()
        server.start()
        assert store.add(record(2)) is False  # the script is loaded anew


def test_a_frozen_redis_costs_half_a_second(redis_server_factory: Callable[..., Any]) -> None:
    server = redis_server_factory()
    with redis_store.connect(server.url) as client:
        store = VectorStore(client)
        store.count()
        server.freeze()
        begun = time.monotonic()
        with Stopwatch() as watch, pytest.raises(Unavailable):
            store.search(embed("x"), 1)
        assert time.monotonic() - begun > 0.4
        assert watch.seconds < 0.9
        server.thaw()
