"""What is particular to Chroma: nothing that lasts is lost while others write, and every vector is read back."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backups.errors import Damaged, RestoreFailed
from backups.sources import chroma_export, chroma_load
from backups.sources.base import Place
from backups.sources.chroma import ChromaSource
from backups.sources.chroma_client import Chroma, Server
from backups.sources.chroma_format import CollectionHead, Record, read, vector_bytes
from backups.sources.chroma_load import close
from backups.sources.ndjson import lines
from controlplane.kernel.errors import Refused, Unavailable
from tests.backups.servers.chroma import contents, drop, encoded, make, put, source_of
from tests.stack import wait_for

from .taking import pieces, said, taken


def records_of(data: bytes) -> dict[str, dict[str, Any]]:
    """By hand, as the format's description says."""
    found: dict[str, dict[str, Any]] = {}
    for line in data.splitlines():
        value = json.loads(line)
        if "collection" in value:
            found[value["collection"]["name"]] = inside = {}
        elif "id" in value:
            assert value["id"] not in inside
            inside[value["id"]] = value
    return found


def place(tmp_path: Path, name: str) -> Place:
    (tmp_path / name).mkdir()
    return Place(tmp_path / name, name)


def test_the_format_holds_every_field_and_each_vector_exactly(chroma_server: Server, tmp_path: Path) -> None:
    collection = make(chroma_server, "exact", space="ip", metadata={"owner": "tests", "weight": 0.5})
    vector = [random.gauss(0, 10) for _ in range(7)]
    body = {
        "ids": ["one", "zwei\u2028\U0001f600"], "embeddings": [encoded(vector), encoded([0.0] * 7)],
        "documents": ["a\0b\n", None], "uris": [None, "s3://x"],
        "metadatas": [{"i": 1, "f": 1.0, "t": True, "s": "ü"}, None],
    }  # fmt: skip
    with Chroma(chroma_server) as chroma:
        chroma.upsert(collection, json.dumps(body).encode())
    data, expectations = taken(source_of(chroma_server), tmp_path)
    first, head, one, two, end_of, end = map(json.loads, data.splitlines())
    assert first == {
        "format": "zantara-chroma", "version": 1, "server": "1.0.0", "tenant": "default_tenant",
        "database": "default_database",
    }  # fmt: skip
    assert head["collection"]["metadata"] == {"owner": "tests", "weight": 0.5}
    assert head["collection"]["configuration_json"]["hnsw"]["space"] == "ip"
    assert head["collection"]["configuration_json"]["hnsw"]["ef_construction"] == 120
    assert head["collection"]["dimension"] == 7
    assert array("f", base64.b64decode(one.pop("embedding"))) == array("f", vector)
    assert one == {"id": "one", "document": "a\0b\n", "metadata": {"i": 1, "f": 1.0, "t": True, "s": "ü"}, "uri": None}
    assert isinstance(one["metadata"]["f"], float)
    assert isinstance(one["metadata"]["i"], int)
    assert (two["id"], two["document"], two["metadata"], two["uri"]) == ("zwei\u2028\U0001f600", None, None, "s3://x")
    assert (end_of, end) == ({"end_of": "exact", "records": 2}, {"end": {"collections": 1, "records": 2}})
    assert expectations["collections"]["exact"]["count"] == 2


def test_nothing_that_lasts_is_lost_while_others_delete_and_add(
    chroma_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = make(chroma_server, "busy")
    ids = [f"r{n:05}" for n in range(4000)]
    for start in range(0, 4000, 1000):
        put(chroma_server, collection, ids[start : start + 1000])
    monkeypatch.setattr(chroma_export, "MOST_PAGE_RECORDS", 100)
    went: set[str] = set()
    came: set[str] = set()
    began = threading.Event()
    rounds = 0

    def write() -> None:
        nonlocal rounds
        began.wait(30)
        for number in range(20):
            early = ids[number * 70 : number * 70 + 60]  # below what is read: every one moves all offsets
            drop(chroma_server, collection, early)
            went.update(early)
            again = early[:10]
            put(chroma_server, collection, [*again, f"new{number}"])
            came.update([*again, f"new{number}"])
            rounds += 1

    writer = threading.Thread(target=write)
    writer.start()
    original = Chroma.page
    pages = 0

    def page(self: Chroma, *args: Any, **options: Any) -> bytes:
        nonlocal pages
        pages += 1
        began.set()
        threading.Event().wait(0.03)  # let the writer through between two pages
        wait_for(lambda: rounds >= min(pages // 4, 20) or not writer.is_alive(), 30, "a round for each four pages")
        return original(self, *args, **options)

    monkeypatch.setattr(Chroma, "page", page)
    data, expectations = taken(source_of(chroma_server), tmp_path)
    assert writer.is_alive() or len(went) == 1200
    during = len(went)
    writer.join(60)
    assert during >= 300, "the writer was to delete during the export"
    assert pages > 40
    found = records_of(data)["busy"]
    assert set(ids) - went - set(found) == set()
    assert expectations["collections"]["busy"]["count"] == len(found)
    monkeypatch.undo()
    assert said(source_of(chroma_server).drill(pieces(data), expectations, place(tmp_path, "drill"))) == ""


def test_what_was_added_before_the_last_page_is_met_by_the_tail_pass(
    chroma_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = make(chroma_server, "tail")
    put(chroma_server, collection, [f"a{n}" for n in range(20)])
    original, added = Chroma.page, []

    def page(self: Chroma, *args: Any, **options: Any) -> bytes:
        if not added:
            added.append(True)
            put(chroma_server, collection, [f"b{n}" for n in range(7)])
        return original(self, *args, **options)

    monkeypatch.setattr(Chroma, "page", page)
    data, _ = taken(source_of(chroma_server), tmp_path)
    assert len(records_of(data)["tail"]) == 27


def test_pages_become_smaller_where_records_are_large(
    chroma_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = make(chroma_server, "large")
    put(chroma_server, collection, [f"a{n}" for n in range(200)], words="w" * 10_000)
    put(chroma_server, collection, [f"b{n}" for n in range(200)])
    monkeypatch.setattr(chroma_export, "PAGE_BYTES", 300_000)
    original, sizes = Chroma.page, []

    def page(self: Chroma, *args: Any, **options: Any) -> bytes:
        answer = original(self, *args, **options)
        sizes.append(len(answer))
        return answer

    monkeypatch.setattr(Chroma, "page", page)
    data, _ = taken(source_of(chroma_server), tmp_path)
    assert len(records_of(data)["large"]) == 400
    assert sorted(sizes)[len(sizes) // 2] < 600_000


def test_collections_that_come_and_go_meanwhile_are_warnings(
    chroma_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(chroma_server, "a-first")
    put(chroma_server, make(chroma_server, "b-second"), ["x"])
    make(chroma_server, "left__restore_abc123")
    original = Chroma.count

    def count(self: Chroma, collection_id: str) -> int:
        names = {one["name"]: one["id"] for one in self.collections()}
        if "b-second" in names and names["a-first"] == collection_id:
            self.delete("b-second")
            make(chroma_server, "c-third")
        return original(self, collection_id)

    monkeypatch.setattr(Chroma, "count", count)
    with source_of(chroma_server).capture(now=None, scratch=tmp_path) as capture:  # type: ignore[arg-type]
        data = b"".join(capture.chunks())
        warnings = capture.finish().warnings
    assert list(records_of(data)) == ["a-first", "b-second"]
    assert sorted(warning.split(" ")[2] + warning[-25:] for warning in warnings) == [
        "b-second" + "ecords are in this backup."[-25:],
        "c-third" + "e backup and is not in it."[-25:],
        "left__restore_abc123" + "restore and is not saved."[-25:],
    ]


def changed(data: bytes, how: str) -> bytes:
    """The export with one thing done to its record in the middle."""
    kept = data.splitlines(keepends=True)
    records = [number for number, line in enumerate(kept) if b'"id":' in line]
    at = records[len(records) // 2]
    value = json.loads(kept[at])
    if how == "document":
        value["document"] = "another"
    elif how == "metadata":
        value["metadata"] = {"n": -1}
    elif how == "id":
        value["id"] = "another"
    elif how == "vector":
        vector = bytearray(base64.b64decode(value["embedding"]))
        vector[4] ^= 1  # the last bit of one component
        value["embedding"] = base64.b64encode(vector).decode()
    if how == "missing":
        del kept[at]
    elif how == "twice":
        kept.insert(at, kept[at])
    else:
        kept[at] = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    if how in {"missing", "twice"}:
        more = 1 if how == "twice" else -1
        count = len(records) + more
        kept[-2] = kept[-2].replace(str(len(records)).encode(), str(count).encode())
        kept[-1] = kept[-1].replace(str(len(records)).encode(), str(count).encode())
    return b"".join(kept)


@pytest.mark.parametrize(
    ("how", "finding"),
    [
        ("document", "ids, documents or metadata are changed"),
        ("metadata", "ids, documents or metadata are changed"),
        ("id", "ids, documents or metadata are changed"),
        ("vector", "vectors are changed"),
        ("missing", "23 records expected, 22 there (1 missing)"),
        ("twice", "23 records expected, 24 there (1 added)"),
    ],
)
def test_one_record_that_differs_fails_inspection_and_drill(
    chroma_server: Server, tmp_path: Path, how: str, finding: str
) -> None:
    put(chroma_server, make(chroma_server, "only"), [f"id{n}" for n in range(23)])
    source = source_of(chroma_server)
    data, expectations = taken(source, tmp_path)
    assert said(source.inspect(pieces(data), expectations)) == ""
    spoiled = changed(data, how)
    assert f"Collection only: {finding}" in said(source.inspect(pieces(spoiled), expectations))
    assert f"Collection only: {finding}" in said(source.drill(pieces(spoiled), expectations, place(tmp_path, "drill")))


def test_what_a_server_does_not_give_back_as_it_came_is_named(chroma_server: Server, tmp_path: Path) -> None:
    """The server is spoiled after the restore: the comparison must read what is there, not what was sent."""
    for name, space in (("cosine", "cosine"), ("euclid", "l2")):
        put(chroma_server, make(chroma_server, name, space=space), [f"id{n}" for n in range(12)])
    source = source_of(chroma_server)
    data, expectations = taken(source, tmp_path)
    restorer = source.restorer(place(tmp_path, "abc"))
    restorer.prepare(pieces(data))
    assert said(restorer.validate(expectations)) == ""
    beside = {name: one["id"] for name, one in restorer.memory["collections"].items()}
    with Chroma(chroma_server) as chroma:
        vectors = json.loads(chroma.get(beside["euclid"], ["id3"]))["embeddings"]
        longer = [component * 1.00001 for component in vectors[0]]
        chroma._answer(
            "POST", f"{chroma._collections}/{beside['euclid']}/update", {"ids": ["id3"], "embeddings": [longer]}
        ).raise_for_status()
    drop(chroma_server, beside["cosine"], ["id5"])
    findings = said(restorer.validate(expectations))
    assert "Collection cosine: 1 records cannot be read back (such as id5)." in findings
    assert "Collection cosine: 12 records were written, 11 are there." in findings
    assert "Collection euclid: 1 vectors do not read back as they were (such as id3)." in findings
    put(chroma_server, beside["euclid"], ["extra"])
    put(chroma_server, beside["cosine"], ["id7"], words="other")
    findings = said(restorer.validate(expectations))
    assert "Collection euclid: 12 records were written, 13 are there." in findings
    restorer.discard()
    assert sorted(contents(chroma_server)) == ["cosine", "euclid"]


def test_vectors_are_the_same_within_the_tolerance_only() -> None:
    def near(a: list[float], b: list[float], *, cosine: bool) -> bool:
        return close(vector_bytes(a), vector_bytes(b), cosine=cosine)

    assert near([1, 2, 3], [1, 2, 3.0000002], cosine=False)
    assert near([1, 2, 3], [2, 4, 6], cosine=True)
    assert not near([1, 2, 3], [2, 4, 6], cosine=False)
    assert not near([1, 2, 3], [1, 2, 3.01], cosine=True)
    assert not near([1, 2], [1, 2, 0], cosine=True)
    assert near([0, 0], [0, 0], cosine=True)
    assert not near([0, 0], [0, 1e-9], cosine=True)
    assert not near([1, 2], [-1, -2], cosine=True)


@pytest.mark.parametrize("broken", ["no head", "no end", "after the end", "not JSON", "no vector", "lost end of"])
def test_an_export_that_is_not_whole_is_damaged(chroma_server: Server, tmp_path: Path, broken: str) -> None:
    put(chroma_server, make(chroma_server, "only"), ["a", "b"])
    data, expectations = taken(source_of(chroma_server), tmp_path)
    kept = data.splitlines(keepends=True)
    spoiled = {
        "no head": kept[1:],
        "no end": kept[:-1],
        "after the end": [*kept, kept[-1]],
        "not JSON": [*kept[:2], b"{\n", *kept[3:]],
        "no vector": [*kept[:2], b'{"id":"a"}\n', *kept[3:]],
        "lost end of": [*kept[:4], *kept[5:]],
    }[broken]
    with pytest.raises(Damaged):
        list(read(lines(iter(spoiled))))
    source = source_of(chroma_server)
    assert said(source.inspect(iter(spoiled), expectations))
    assert said(source.drill(iter(spoiled), expectations, place(tmp_path, "drill")))


def test_batches_stay_within_the_servers_limits(
    chroma_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(chroma_server, make(chroma_server, "many"), [f"id{n}" for n in range(300)], dimension=100)
    data, expectations = taken(source_of(chroma_server), tmp_path)
    monkeypatch.setattr(chroma_load, "MOST_BODY_BYTES", 60_000)
    original, bodies = Chroma.upsert, []

    def upsert(self: Chroma, collection_id: str, body: bytes) -> None:
        bodies.append(len(body))
        original(self, collection_id, body)

    monkeypatch.setattr(Chroma, "upsert", upsert)
    restorer = source_of(chroma_server).restorer(place(tmp_path, "abc"))
    restorer.prepare(pieces(data))
    assert said(restorer.validate(expectations)) == ""
    assert len(bodies) > 3
    assert max(bodies) < 80_000
    restorer.discard()


def test_a_swap_that_stopped_half_way_is_finished_or_undone(
    chroma_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        put(chroma_server, make(chroma_server, f"col-{name}"), ["x"], words="old")
    source = source_of(chroma_server)
    data, _ = taken(source, tmp_path)
    for name in ("a", "b", "c"):
        with Chroma(chroma_server) as chroma:
            chroma.delete(f"col-{name}")
        put(chroma_server, make(chroma_server, f"col-{name}"), ["y"], words="new")
    new = contents(chroma_server)
    original = Chroma.rename
    for stop_at in range(6):
        restorer = source.restorer(place(tmp_path, f"t{stop_at}"))
        restorer.prepare(pieces(data))
        memory = json.loads(json.dumps(restorer.memory))
        renames = 0

        def rename(self: Chroma, collection_id: str, name: str, stop_at: int = stop_at) -> None:
            nonlocal renames
            if renames == stop_at:
                raise Unavailable("killed here")
            renames += 1
            original(self, collection_id, name)

        monkeypatch.setattr(Chroma, "rename", rename)
        with pytest.raises(Unavailable, match="killed here"):
            restorer.swap()
        monkeypatch.undo()
        another = source.restorer(Place(tmp_path / f"t{stop_at}", f"t{stop_at}"))
        another.memory = memory
        if stop_at % 2:
            another.swap()
            assert all("x" in contents(chroma_server)[f"col-{name}"][2] for name in "abc")
        another.undo()
        another.discard()
        assert contents(chroma_server) == new, stop_at


def test_a_restored_collection_that_vanished_is_not_swapped(chroma_server: Server, tmp_path: Path) -> None:
    put(chroma_server, make(chroma_server, "only"), ["x"])
    source = source_of(chroma_server)
    data, _ = taken(source, tmp_path)
    before = contents(chroma_server)
    restorer = source.restorer(place(tmp_path, "abc"))
    restorer.prepare(pieces(data))
    with Chroma(chroma_server) as chroma:
        chroma.delete("only__restore_abc")
    with pytest.raises(RestoreFailed, match="not there any more"):
        restorer.swap()
    assert contents(chroma_server) == before


def test_preflight_says_that_uuids_change(chroma_server: Server, tmp_path: Path) -> None:
    findings = source_of(chroma_server).restorer(place(tmp_path, "abc")).preflight(1)
    assert "new UUIDs" in said(findings, "warn")


def test_the_one_line_restores_with_nothing_but_python(chroma_server: Server, tmp_path: Path) -> None:
    for name, space in (("first", "cosine"), ("second", "ip")):
        collection = make(chroma_server, name, space=space, metadata={"of": name} if name == "first" else None)
        put(chroma_server, collection, [f"id{n}" for n in range(30)])
    data, _ = taken(source_of(chroma_server), tmp_path)
    before = contents(chroma_server)
    with Chroma(chroma_server) as chroma:
        for name in before:
            chroma.delete(name)
    line = ChromaSource.stock_command().replace("http://HOST:8000", chroma_server.url)
    subprocess.run(["sh", "-c", line], input=data, check=True, timeout=60)
    assert contents(chroma_server) == before


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "localhost:8000"}, "http://host:port"),
        ({"url": "http://me:word@host"}, "password"),
        ({"url": "http://host", "token_header": "Cookie"}, "Authorization or X-Chroma-Token"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        ChromaSource.clean(settings, {})


def test_a_stream_of_records_is_read_lazily(chroma_server: Server, tmp_path: Path) -> None:
    put(chroma_server, make(chroma_server, "only"), [f"id{n}" for n in range(5)])
    data, _ = taken(source_of(chroma_server), tmp_path)
    seen = 0

    def counted() -> Iterator[bytes]:
        nonlocal seen
        for line in data.splitlines(keepends=True):
            seen += 1
            yield line

    parts = read(lines(counted()))
    assert isinstance(next(parts), CollectionHead)
    assert isinstance(next(parts), Record)
    assert seen == 3
