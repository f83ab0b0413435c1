"""Vectors in Redis, shared by all processes of the service, searched exactly.

Two keys that change only together, inside one script each time:

    {zantara:vectors}:records   hash, id -> 1/length (double), the components (32-bit floats), then id, text
                                and metadata as JSON
    {zantara:vectors}:ids       sorted set of the ids, all with score 0, that is in the order of their bytes

A search reads the whole hash in one command, so that it sees an import either not at all or completely.
That, and arithmetic in plain Python, set the bound on the number of records.
"""

from __future__ import annotations

import heapq
import json
import math
import secrets
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from operator import mul
from typing import Any, Literal, cast

import redis

from controlplane.kernel.errors import Refused
from controlplane.monitoring.metrics import vector_operation

from . import redis_store
from .embedding import DIMENSIONS

#: A search of this many takes about 70 ms of one core; more belong into a vector database.
MOST_RECORDS = 5000
PAGE_RECORDS = 200
#: An import that died leaves its staging keys behind for this long.
STAGING_SECONDS = 600

_RECORDS, _IDS = "{zantara:vectors}:records", "{zantara:vectors}:ids"
_HEAD = struct.Struct("<d")
_JSON_AT = _HEAD.size + 4 * DIMENSIONS

_ADD = """
local known = redis.call('HEXISTS', KEYS[1], ARGV[1])
if known == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return known
"""
_DELETE = """
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
_PAGE = """
local ids = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(ids))
"""
# Everything is counted before anything is changed. ARGV: mode, most records, records that were staged.
_SWAP = """
local staged = redis.call('HLEN', KEYS[3])
if staged ~= tonumber(ARGV[3]) then return {-2, staged} end
if ARGV[1] == 'replace' then
  redis.call('UNLINK', KEYS[1], KEYS[2])
  if staged > 0 then
    redis.call('RENAME', KEYS[3], KEYS[1])
    redis.call('RENAME', KEYS[4], KEYS[2])
    redis.call('PERSIST', KEYS[1])
    redis.call('PERSIST', KEYS[2])
  end
  return {0, staged}
end
local entries = redis.call('HGETALL', KEYS[3])
local total = redis.call('HLEN', KEYS[1])
for n = 1, #entries, 2 do
  if redis.call('HEXISTS', KEYS[1], entries[n]) == 0 then total = total + 1 end
end
if total > tonumber(ARGV[2]) then return {-1, total} end
for n = 1, #entries, 2 do
  redis.call('HSET', KEYS[1], entries[n], entries[n + 1])
  redis.call('ZADD', KEYS[2], 0, entries[n])
end
return {0, total}
"""

Mode = Literal["replace", "merge"]


@dataclass(frozen=True, slots=True)
class Record:
    """One text with its vector. ``embedding`` is kept as 32-bit floats and need not have length 1."""

    id: str
    text: str
    embedding: Sequence[float]
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A record found, and the cosine of the angle between it and the question (-1 to 1)."""

    id: str
    text: str
    metadata: dict[str, Any]
    score: float


class VectorStore:
    """The records of one Redis. Every method raises Unavailable if that does not answer in time."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._add, self._delete, self._page, self._swap = (
            client.register_script(source) for source in (_ADD, _DELETE, _PAGE, _SWAP)
        )

    def count(self) -> int:
        with redis_store.answering():
            return int(self._redis.hlen(_RECORDS))

    @vector_operation("add", "redis")
    def add(self, record: Record) -> bool:
        """Add a record, or replace the one of the same id (then True); Refused when the store is full."""
        with redis_store.answering():
            known = self._add(keys=[_RECORDS, _IDS], args=[record.id, pack(record), MOST_RECORDS])
        if known == -1:
            raise _full()
        return bool(known)

    @vector_operation("delete", "redis")
    def delete(self, record_id: str) -> bool:
        """Whether there was such a record."""
        with redis_store.answering():
            return bool(self._delete(keys=[_RECORDS, _IDS], args=[record_id]))

    @vector_operation("search", "redis")
    def search(self, vector: Sequence[float], k: int) -> list[Match]:
        """The ``k`` records nearest to ``vector`` by cosine, best first, exactly; ties in the order of their ids."""
        with redis_store.answering():
            values = cast("list[bytes]", self._redis.hvals(_RECORDS))
        length = math.hypot(*vector)
        question = [component / length for component in vector]
        # Only the winners are decoded; the JSON begins with the id, which makes it a tie-breaker.
        scored = ((-_cosine(question, value), value[_JSON_AT:]) for value in values)
        return [_match(json.loads(tail), -negative) for negative, tail in heapq.nsmallest(k, scored)]

    @vector_operation("page", "redis")
    def page(self, after: str | None) -> list[Record]:
        """Up to :data:`PAGE_RECORDS` records with ids above ``after``, in the order of their ids' UTF-8 bytes.

        Walking on from the last id of each page meets every record that is there all along exactly once,
        whatever is added and deleted meanwhile.
        """
        least = b"-" if after is None else b"(" + after.encode()
        with redis_store.answering():
            values = self._page(keys=[_RECORDS, _IDS], args=[least, PAGE_RECORDS])
        return [unpack(value) for value in values]

    @vector_operation("import", "redis")
    def import_all(self, records: Iterable[Record], mode: Mode) -> tuple[int, int]:
        """Stage all records, then put them in place at once. Returns how many came and how many there are now.

        An error of ``records`` itself, too many of them, or a Redis that goes away changes nothing.
        """
        name = f"{{zantara:vectors}}:staging:{secrets.token_hex(8)}"
        staged = [f"{name}:records", f"{name}:ids"]
        came = 0
        try:
            for batch in _batches(records, PAGE_RECORDS):
                came += len(batch)
                if came > MOST_RECORDS:
                    raise _full()
                self._stage(staged, batch)
            with redis_store.answering():
                status, number = self._swap(keys=[_RECORDS, _IDS, *staged], args=[mode, MOST_RECORDS, came])
        finally:
            self._forget(staged)
        if status == -1:
            raise _full()
        if status == -2:
            raise Refused("The staged records were lost on the way; nothing was changed.", remedy="Import again.")
        return came, int(number)

    def _stage(self, keys: list[str], batch: list[Record]) -> None:
        with redis_store.answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys[0], mapping={record.id: pack(record) for record in batch})
            pipe.zadd(keys[1], {record.id: 0 for record in batch})
            for key in keys:
                pipe.expire(key, STAGING_SECONDS)
            pipe.execute()

    def _forget(self, keys: list[str]) -> None:
        # They expire anyway; what went wrong before must not be hidden by this.
        with suppress(redis.RedisError):
            self._redis.unlink(*keys)


@lru_cache(maxsize=1)
def store() -> VectorStore:
    """This process's store."""
    return VectorStore(redis_store.client())


def pack(record: Record) -> bytes:
    """A record as it lies in Redis; ValueError unless it has 384 components and a direction."""
    components = array("f", record.embedding)
    if len(components) != DIMENSIONS:
        raise ValueError(f"{len(components)} components instead of {DIMENSIONS}")
    length = math.hypot(*components)
    if not 0 < length < math.inf:
        raise ValueError("no direction")
    if sys.byteorder == "big":
        components.byteswap()
    text = json.dumps([record.id, record.text, record.metadata], ensure_ascii=False, separators=(",", ":"))
    return _HEAD.pack(1 / length) + components.tobytes() + text.encode()


def unpack(value: bytes) -> Record:
    record_id, text, metadata = json.loads(value[_JSON_AT:])
    return Record(id=record_id, text=text, embedding=list(_components(value)), metadata=metadata)


def _components(value: bytes) -> array[float]:
    components = array("f", value[_HEAD.size : _JSON_AT])
    if sys.byteorder == "big":
        components.byteswap()
    return components


def _cosine(question: Sequence[float], value: bytes) -> float:
    product: float = sum(map(mul, question, _components(value))) * _HEAD.unpack_from(value)[0]
    return max(-1.0, min(1.0, product))


def _match(tail: list[Any], score: float) -> Match:
    record_id, text, metadata = tail
    return Match(id=record_id, text=text, metadata=metadata, score=score)


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _full() -> Refused:
    return Refused(
        f"There is room for {MOST_RECORDS} records, because each search compares all of them; this would exceed it.",
        remedy="Delete some with memory.delete, or import a smaller set with ?mode=replace.",
    )
