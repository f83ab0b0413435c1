"""What is in a Redis: per logical database its keys, their types, expiries and values, in a form that any server of any
version gives alike (never DUMP: the order inside a set differs from load to load).

Keys that expire are kept apart by the hour in which they do, so that a comparison weeks later can leave out what must
be gone by then and still be exact about the rest.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import redis

from .base import Finding
from .compare import differences, verdict
from .redis_link import Connect

#: Keys are listed one by one, to be named in a finding, up to so many in all.
MOST_LISTED = 50_000
BATCH_KEYS = 500
#: Collections up to this many members are read whole, strings up to this many bytes with others of their batch.
PAGE = 2000
SMALL_BYTES = 64 * 2**10
_HOUR_MS = 3_600_000
_MODULUS = 2**256
#: Where a server has no PEXPIRETIME (before 7.0) an expiry is reckoned, and may be off by so much.
_SIZES = {
    b"string": "STRLEN", b"list": "LLEN", b"set": "SCARD", b"zset": "ZCARD", b"hash": "HLEN", b"stream": "XLEN",
}  # fmt: skip


def key_text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def ask(client: redis.Redis, *command: Any) -> Any:
    """The answer to a command, or a pipeline that takes it."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


def scan_keys(client: redis.Redis) -> Iterator[list[bytes]]:
    """Every key once, in batches."""
    seen: set[bytes] = set()
    cursor: Any = 0
    while True:
        cursor, found = ask(client, "SCAN", cursor, "COUNT", BATCH_KEYS)
        fresh = [key for key in dict.fromkeys(found) if key not in seen]
        seen.update(fresh)
        if fresh:
            yield fresh
        if int(cursor) == 0:
            return


def raw(client: redis.Redis) -> redis.Redis:
    """The client with every answer as the server sent it."""
    client.response_callbacks.clear()
    return client


def gather(
    connect: Connect, databases: Iterable[int], *, ignore: Callable[[bytes], bool] = lambda _key: False
) -> dict[str, Any]:
    """``{"format", "databases": {"0": {"keys", "types", "groups": {"never" | hour: [keys, digest]}, "entries"}}}``.

    ``entries`` maps each key to ``[type, expires at (ms), digest]``; None where there are more than MOST_LISTED.
    """
    found = {str(database): _database(connect(database), ignore) for database in databases}
    listed = sum(len(facts["entries"]) for facts in found.values())
    if listed > MOST_LISTED:
        for facts in found.values():
            facts["entries"] = None
    return {"format": 1, "databases": {name: facts for name, facts in found.items() if facts["keys"]}}


def _database(client: redis.Redis, ignore: Callable[[bytes], bool]) -> dict[str, Any]:
    types: Counter[str] = Counter()
    groups: dict[str, list[int]] = {}
    entries: dict[str, list[Any]] = {}
    count = 0
    with closing(raw(client)):
        for batch in scan_keys(client):
            for key, type_, expires_at, digest in _read(client, [key for key in batch if not ignore(key)]):
                count += 1
                types[type_] += 1
                group = groups.setdefault("never" if expires_at is None else str(expires_at // _HOUR_MS), [0, 0])
                group[0] += 1
                group[1] += _hash(repr((key, type_, expires_at, digest)).encode())
                if len(entries) <= MOST_LISTED:
                    entries[key_text(key)] = [type_, expires_at, digest]
    return {
        "keys": count,
        "types": dict(types),
        "groups": {name: [keys, f"{total % _MODULUS:064x}"] for name, (keys, total) in groups.items()},
        "entries": entries,
    }


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


def _read(client: redis.Redis, keys: list[bytes]) -> Iterator[tuple[bytes, str, int | None, str]]:
    types = _all(client, [("TYPE", key) for key in keys])
    expiries = expiry_times(client, keys)
    sizes = _all(
        client,
        [(_SIZES[type_], key) if type_ in _SIZES else ("EXISTS", key) for key, type_ in zip(keys, types, strict=True)],
    )
    small = [
        (key, type_)
        for key, type_, size in zip(keys, types, sizes, strict=True)
        if type_ in _SMALL and size <= (SMALL_BYTES if type_ == b"string" else PAGE)
    ]
    values = dict(
        zip((key for key, _ in small), _all(client, [_SMALL[type_](key) for key, type_ in small]), strict=True)
    )
    for key, type_, expires_at in zip(keys, types, expiries, strict=True):
        if type_ == b"none" or expires_at == -2:
            continue  # expired while it was looked at
        digest = _digest(type_, values[key]) if key in values else _large(client, key, type_)
        yield key, type_.decode(), None if expires_at == -1 else expires_at, digest


def _all(client: redis.Redis, commands: list[tuple[Any, ...]]) -> list[Any]:
    if not commands:
        return []
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        ask(pipeline, *command)
    return list(pipeline.execute())


def expiry_times(client: redis.Redis, keys: list[bytes]) -> list[int]:
    """Milliseconds since 1970; -1 without expiry, -2 without key."""
    try:
        return _all(client, [("PEXPIRETIME", key) for key in keys])
    except redis.ResponseError:  # before Redis 7.0
        seconds, micros = (int(part) for part in ask(client, "TIME"))
        now = seconds * 1000 + micros // 1000
        return [left if left < 0 else now + left for left in _all(client, [("PTTL", key) for key in keys])]


_SMALL: dict[bytes, Callable[[bytes], tuple[Any, ...]]] = {
    b"string": lambda key: ("GET", key),
    b"list": lambda key: ("LRANGE", key, 0, -1),
    b"set": lambda key: ("SMEMBERS", key),
    b"zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
    b"hash": lambda key: ("HGETALL", key),
}


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _digest(type_: bytes, value: Any) -> str:
    if type_ == b"set":
        value = sorted(value)
    elif type_ == b"hash":
        value = sorted(_pairs(value))
    elif type_ == b"zset":
        value = [(member, float(score)) for member, score in _pairs(value)]
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _large(client: redis.Redis, key: bytes, type_: bytes) -> str:
    """The same for what is too large to be read at once, page by page."""
    digest = hashlib.sha256()
    if type_ == b"string":
        for start in range(0, int(ask(client, "STRLEN", key)), 2**20):
            digest.update(ask(client, "GETRANGE", key, start, start + 2**20 - 1))
    elif type_ in (b"list", b"zset"):
        for page in _ranges(client, key, type_):
            digest.update(repr(page).encode())
    elif type_ in (b"set", b"hash"):
        digest.update(f"{_unordered(client, key, type_):064x}".encode())
    elif type_ == b"stream":
        for page in _stream(client, key):
            digest.update(repr(page).encode())
    else:  # of a module: what it writes of itself, without version and checksum
        digest.update((ask(client, "DUMP", key) or b"")[:-10])
    return digest.hexdigest()


def _ranges(client: redis.Redis, key: bytes, type_: bytes) -> Iterator[list[Any]]:
    start = 0
    while True:
        if type_ == b"list":
            page = ask(client, "LRANGE", key, start, start + PAGE - 1)
        else:
            flat = ask(client, "ZRANGE", key, start, start + PAGE - 1, "WITHSCORES")
            page = [(member, float(score)) for member, score in _pairs(flat)]
        if not page:
            return
        yield page
        start += PAGE


def _unordered(client: redis.Redis, key: bytes, type_: bytes) -> int:
    """SSCAN and HSCAN may give a member twice: each counts once."""
    seen: set[int] = set()
    cursor: Any = 0
    while True:
        cursor, page = ask(client, "SSCAN" if type_ == b"set" else "HSCAN", key, cursor, "COUNT", PAGE)
        seen.update(_hash(repr(item).encode()) for item in (page if type_ == b"set" else _pairs(page)))
        if int(cursor) == 0:
            return sum(seen) % _MODULUS


def _stream(client: redis.Redis, key: bytes) -> Iterator[Any]:
    start: bytes = b"-"
    while page := ask(client, "XRANGE", key, start, "+", "COUNT", PAGE):
        yield page
        start = b"(" + page[-1][0]
    for group in ask(client, "XINFO", "GROUPS", key):
        facts = dict(_pairs(group))
        yield facts[b"name"], facts[b"pending"], facts[b"last-delivered-id"]


def compare_facts(
    expectations: Mapping[str, Any], found: Mapping[str, Any], *, now_ms: int | None = None
) -> list[Finding]:
    """Exactly, key by key where keys are listed; what must have expired by ``now_ms`` is left out on both sides."""
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    problems: list[Finding] = []
    gone = 0
    for name in sorted({*expectations["databases"], *found["databases"]}, key=int):
        expected, present = (side["databases"].get(name, _NOTHING) for side in (expectations, found))
        if expected["entries"] is not None and present["entries"] is not None:
            wanted, have = (
                {key: entry for key, entry in side["entries"].items() if entry[1] is None or entry[1] > now_ms}
                for side in (expected, present)
            )
            gone += len(expected["entries"]) - len(wanted)
            problems += differences(f"database {name}: key", wanted, have, describe=_describe)
        else:
            wanted, have = (
                {
                    group: value
                    for group, value in side["groups"].items()
                    if group == "never" or int(group) * _HOUR_MS > now_ms
                }
                for side in (expected, present)
            )
            gone += expected["keys"] - sum(keys for keys, _ in wanted.values())
            problems += differences(f"database {name}: keys that expire in hour", wanted, have)
    keys = sum(side["keys"] for side in found["databases"].values())
    rest = f"; {gone} more have expired since or were about to" if gone else ""
    return verdict(problems, f"{keys} keys are exactly as they were{rest}")


_NOTHING: dict[str, Any] = {"keys": 0, "types": {}, "groups": {}, "entries": {}}


def _describe(expected: list[Any], found: list[Any]) -> str:
    names = ("its type", "its expiry", "its value")
    different = [name for name, one, other in zip(names, expected, found, strict=True) if one != other]
    return "is not as it was: " + ", ".join(different)
