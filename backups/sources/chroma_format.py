"""The format of an export of Chroma: NDJSON, UTF-8, one object a line, readable without us.

    {"format": "zantara-chroma", "version": 1, "server": "1.0.0", "tenant": …, "database": …}
    {"collection": {"name", "metadata", "configuration_json", "schema", "dimension", "tenant", "database"}}
    {"document": …, "id": …, "metadata": …, "uri": …, "embedding": "<base64>"}                 one per record
    {"end_of": "<name>", "records": 1000}
    …                                                                                          next collection
    {"end": {"collections": 2, "records": 2000}}

``embedding`` is base64 (RFC 4648) of the vector's components as little-endian 32-bit floats, exactly as Chroma keeps
them: ``array.array("f", base64.b64decode(text))`` or ``numpy.frombuffer(base64.b64decode(text), "<f4")``. Chroma takes
that text itself in ``POST …/upsert``. A stream without the last line is incomplete.

Digests do not depend on the order of records: a sum modulo 2**128 of each record's BLAKE2b, once over its line without
the vector, once over its id and the bytes of its vector.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from backups.errors import Damaged

from .ndjson import compact, parsed

FORMAT, VERSION = "zantara-chroma", 1
HEAD_FIELDS = ("name", "metadata", "configuration_json", "schema", "dimension", "tenant", "database")
_EMBEDDING = b',"embedding":"'
_MODULUS = 2**128


@dataclass
class Tally:
    """What is known of one collection's records."""

    count: int = 0
    records: int = 0
    vectors: int = 0
    dimension: int | None = None

    def add(self, head: bytes, record_id: str, vector: bytes) -> None:
        self.count += 1
        self.dimension = len(vector) // 4
        self.records = (self.records + _hash(head)) % _MODULUS
        self.vectors = (self.vectors + _hash(record_id.encode() + b"\0" + vector)) % _MODULUS

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "records": f"{self.records:032x}", "vectors": f"{self.vectors:032x}"}


@dataclass
class Record:
    """One record: ``head`` is its line without the vector, which is 32-bit floats, little-endian."""

    id: str
    head: bytes
    vector: bytes
    text: str = field(default="", repr=False)  # base64 of the vector


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=16).digest(), "big")


def head_of(record_id: str, document: str | None, metadata: Mapping[str, Any] | None, uri: str | None) -> bytes:
    """What is exact about a record. The server answers ``{}`` or null for no metadata, as it likes."""
    return compact({"document": document, "id": record_id, "metadata": metadata or None, "uri": uri})


def vector_bytes(components: Sequence[float] | None) -> bytes:
    numbers = array("f", components or ())
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def components(vector: bytes) -> array[float]:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def records_of(page: Mapping[str, Any]) -> Iterator[Record]:
    """The records of an answer of the server."""
    ids = page["ids"]
    nothing = [None] * len(ids)
    for record_id, document, metadata, uri, numbers in zip(
        ids,
        page.get("documents") or nothing,
        page.get("metadatas") or nothing,
        page.get("uris") or nothing,
        page.get("embeddings") or nothing,
        strict=True,
    ):
        yield Record(record_id, head_of(record_id, document, metadata, uri), vector_bytes(numbers))


def line_of(record: Record) -> bytes:
    return record.head[:-1] + _EMBEDDING + base64.b64encode(record.vector) + b'"}\n'


def collection_line(collection: Mapping[str, Any]) -> bytes:
    return compact({"collection": {name: collection.get(name) for name in HEAD_FIELDS}}) + b"\n"


@dataclass(frozen=True)
class CollectionHead:
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.fields["name"])


@dataclass(frozen=True)
class CollectionEnd:
    name: str


def read(lines: Iterator[bytes]) -> Iterator[CollectionHead | Record | CollectionEnd]:
    """An export, part by part; Damaged where it is none, or not whole."""
    first = parsed(next(lines, b""), 1)
    if first.get("format") != FORMAT or first.get("version") != VERSION:
        raise Damaged(
            "This is no export of Chroma, or one of a newer version.", remedy="Read it with the version that wrote it."
        )
    name: str | None = None
    inside, collections, records = 0, 0, 0
    for number, line in enumerate(lines, start=2):
        value = parsed(line, number)
        if "id" in value and name is not None:
            inside += 1
            yield _record(value, number)
        elif "collection" in value and name is None:
            head = CollectionHead(value["collection"])
            name, inside = head.name, 0
            collections += 1
            yield head
        elif value.get("end_of") == name is not None and value["records"] == inside:
            records += inside
            yield CollectionEnd(str(name))
            name = None
        elif "end" in value and name is None and value["end"] == {"collections": collections, "records": records}:
            if next(lines, None) is not None:
                raise Damaged("Something follows the last line.", remedy="See what was stored under this artifact.")
            return
        else:
            raise Damaged(f"Line {number} is not what comes here.", remedy="Lines were lost or added: see the store.")
    raise Damaged("The last line is missing: the export is incomplete.", remedy="Take another backup.")


def _record(value: Mapping[str, Any], number: int) -> Record:
    try:
        text = value["embedding"]
        vector = base64.b64decode(text, validate=True)
        head = head_of(value["id"], value["document"], value["metadata"], value["uri"])
    except (KeyError, ValueError, TypeError):
        raise Damaged(f"Line {number} is no record.", remedy="See what was stored under this artifact.") from None
    return Record(value["id"], head, vector, text)
