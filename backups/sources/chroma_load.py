"""Write an export into collections, and read all of them back: every record, every field, every vector."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from backups.errors import Damaged

from .base import Finding
from .chroma_client import MOST_BODY_BYTES, Chroma
from .chroma_format import CollectionEnd, CollectionHead, Record, Tally, components, read, records_of
from .ndjson import lines

#: Chroma keeps vectors of the space "cosine" scaled, and gives them back with the scale put on again: measured
#: differences are up to 2.4e-7.
TOLERANCE = 1e-6
MOST_BATCH_RECORDS = 1000
READ_RECORDS = 500
_LENGTHS = struct.Struct("<II")


@dataclass(frozen=True)
class Loaded:
    """One collection that was written. ``spool`` holds its ids and vectors as they came, for reading back."""

    name: str
    written_as: str
    id: str
    space: str
    spool: str
    tally: Mapping[str, Any]


def load(
    chroma: Chroma, chunks: Iterable[bytes], *, folder: Path, named: Callable[[str], str] = str
) -> Iterator[Loaded]:
    """Write every collection under the name that ``named`` gives it. Damaged where the export is not whole."""
    most, takes_base64 = chroma.limits()
    writer: _Writer | None = None
    number = 0
    try:
        for part in read(lines(chunks)):
            if isinstance(part, CollectionHead):
                made = chroma.create(part.fields, named(part.name))
                spool = folder / f"collection-{number:05}.spool"
                writer = _Writer(chroma, part, made, spool, min(most, MOST_BATCH_RECORDS), takes_base64)
                number += 1
            elif isinstance(part, CollectionEnd):
                assert writer is not None  # noqa: S101
                yield writer.finish()
                writer = None
            else:
                assert writer is not None  # noqa: S101
                writer.add(part)
    finally:
        if writer is not None:
            writer.close()


def tallies(chunks: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    """Read an export to its end without writing it anywhere."""
    found: dict[str, dict[str, Any]] = {}
    tally = Tally()
    for part in read(lines(chunks)):
        if isinstance(part, CollectionHead):
            tally = Tally()
            found[part.name] = {}
        elif isinstance(part, CollectionEnd):
            found[part.name] = tally.as_json()
        else:
            tally.add(part.head, part.id, part.vector)
    return found


class _Writer:
    """Batches of one collection, within the server's limits."""

    def __init__(
        self, chroma: Chroma, head: CollectionHead, made: Mapping[str, Any], spool: Path, most: int, base64: bool
    ) -> None:
        self._chroma, self._head, self._made = chroma, head, made
        self._most, self._base64 = most, base64
        self._spool_path = spool
        self._spool: BinaryIO = spool.open("wb")
        self._tally = Tally()
        self._batch: list[Record] = []
        self._bytes = 0

    def add(self, record: Record) -> None:
        size = len(record.head) + 3 * len(record.vector)
        if self._batch and (len(self._batch) >= self._most or self._bytes + size > MOST_BODY_BYTES):
            self._send()
        self._batch.append(record)
        self._bytes += size
        self._tally.add(record.head, record.id, record.vector)
        key = record.id.encode()
        self._spool.write(_LENGTHS.pack(len(key), len(record.vector)) + key + record.vector)

    def finish(self) -> Loaded:
        if self._batch:
            self._send()
        self.close()
        configuration = self._made.get("configuration_json") or {}
        return Loaded(
            name=self._head.name,
            written_as=str(self._made["name"]),
            id=str(self._made["id"]),
            space=str(((configuration.get("hnsw") or configuration.get("spann")) or {}).get("space", "l2")),
            spool=self._spool_path.name,
            tally=self._tally.as_json(),
        )

    def close(self) -> None:
        self._spool.close()

    def _send(self) -> None:
        heads = [json.loads(record.head) for record in self._batch]
        body = {
            "ids": [record.id for record in self._batch],
            "embeddings": [record.text if self._base64 else list(components(record.vector)) for record in self._batch],
            "documents": [head["document"] for head in heads],
            "metadatas": [head["metadata"] for head in heads],
            "uris": [head["uri"] for head in heads],
        }
        self._chroma.upsert(str(self._made["id"]), json.dumps(body, ensure_ascii=False).encode())
        self._batch, self._bytes = [], 0


def compare(chroma: Chroma, loaded: Iterable[Loaded], expectations: Mapping[str, Any], folder: Path) -> list[Finding]:
    """What differs between the expectations and what stands in the server now; one ``pass`` where nothing does."""
    expected = dict(expectations["collections"])
    findings = []
    records = 0
    standing = {str(one["id"]): one for one in chroma.collections()}
    for one in loaded:
        wanted = expected.pop(one.name, None)
        label = f"Collection {one.name}"
        if wanted is None:
            findings.append(Finding("fail", f"{label} was not expected."))
            continue
        records += wanted["count"]
        if one.id not in standing:
            findings.append(Finding("fail", f"{label} is not there."))
            continue
        findings += differences(label, wanted, one.tally)
        findings += _settings(label, wanted, standing[one.id])
        findings += _read_back(chroma, one, wanted, label, folder)
    findings += [Finding("fail", f"Collection {name} is missing.") for name in expected]
    return findings or [
        Finding(
            "pass",
            f"{len(expectations['collections'])} collections with {records} records are exactly as they were; every "
            "vector was read back.",
        )
    ]


def differences(label: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[Finding]:
    """Between what a collection held when it was read, and what the stored export holds."""
    if wanted["count"] != found["count"]:
        less = found["count"] < wanted["count"]
        gap = f"{abs(found['count'] - wanted['count'])} {'missing' if less else 'added'}"
        return [Finding("fail", f"{label}: {wanted['count']} records expected, {found['count']} there ({gap}).")]
    findings = []
    if wanted["records"] != found["records"]:
        findings.append(Finding("fail", f"{label}: ids, documents or metadata are changed."))
    # The vectors' digest has the ids in it, so that after a change of these it says nothing of its own.
    elif wanted["vectors"] != found["vectors"]:
        findings.append(Finding("fail", f"{label}: vectors are changed."))
    return findings


def _settings(label: str, wanted: Mapping[str, Any], made: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("fail", f"{label} has another {name.removesuffix('_json')} than it had.")
        for name in ("configuration_json", "metadata", "dimension")
        if (wanted.get(name) or None) != (made.get(name) or None) and not (name == "dimension" and not wanted["count"])
    ]


def _read_back(chroma: Chroma, one: Loaded, wanted: Mapping[str, Any], label: str, folder: Path) -> list[Finding]:
    tally, missing, turned = Tally(), 0, 0
    examples: list[str] = []
    for batch in _batches(folder / one.spool):
        page = orjson.loads(chroma.get(one.id, list(batch)))
        for record in records_of(page):
            vector = batch.pop(record.id)
            tally.add(record.head, record.id, vector)
            if not close(vector, record.vector, cosine=one.space == "cosine"):
                turned += 1
                examples += [record.id] if len(examples) < 5 else []
        missing += len(batch)
        examples += list(batch)[: max(0, 5 - len(examples))]
    named = f" (such as {', '.join(examples)})" if examples else ""
    findings = []
    if missing:
        findings.append(Finding("fail", f"{label}: {missing} records cannot be read back{named}."))
    if turned:
        findings.append(Finding("fail", f"{label}: {turned} vectors do not read back as they were{named}."))
    if not missing and tally.as_json()["records"] != one.tally["records"]:
        findings.append(Finding("fail", f"{label}: documents or metadata do not read back as they were."))
    there = chroma.count(one.id)
    if there != one.tally["count"]:
        findings.append(Finding("fail", f"{label}: {one.tally['count']} records were written, {there} are there."))
    return findings


def _batches(spool: Path) -> Iterator[dict[str, bytes]]:
    try:
        file = spool.open("rb")
    except FileNotFoundError:
        raise Damaged("What was written is not known any more.", remedy="Restore this part again.") from None
    with file:
        batch: dict[str, bytes] = {}
        while lengths := file.read(_LENGTHS.size):
            key, vector = _LENGTHS.unpack(lengths)
            record_id = file.read(key).decode()
            batch[record_id] = file.read(vector)
            if len(batch) == READ_RECORDS:
                yield batch
                batch = {}
        if batch:
            yield batch


def close(one: bytes, other: bytes, *, cosine: bool) -> bool:
    """Whether two vectors have the same direction and, where the space knows lengths, the same length."""
    if one == other:
        return True
    if len(one) != len(other):
        return False
    a, b = components(one), components(other)
    aa, bb, ab = sum(map(mul, a, a)), sum(map(mul, b, b)), sum(map(mul, a, b))
    if not aa or not bb or not math.isfinite(aa * bb):
        return False
    if 1 - ab / math.sqrt(aa * bb) > TOLERANCE:
        return False
    return cosine or abs(math.sqrt(aa) - math.sqrt(bb)) <= TOLERANCE * math.sqrt(aa)
