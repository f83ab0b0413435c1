"""Put logical databases of a Redis back: copied key by key into empty spare ones, then exchanged by SWAPDB, atomically.

Two marker keys say how far it came, whoever asks. ``zantara:restore:<token>`` is the first key of the spare database
and travels with what was restored; ``zantara:restore-old:<token>`` is set in the live one in the same transaction that
exchanges the two, and travels with what was live. A spare database is emptied only while it holds one of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import redis

from backups.errors import CannotRestore, Damaged, RestoreFailed

from .base import Finding, Place, Restorer
from .redis_facts import ask, compare_facts, expiry_times, gather, raw, scan_keys
from .redis_link import LOOK_SECONDS, Connect, Link, used_databases
from .scratch.redis import scratch_redis

#: A snapshot's bytes take about so many times their size in memory.
MEMORY_FACTOR = 4
_BROKER_KEYS = "_kombu.binding.*"
_BROKER = (
    "Celery's queues are in it: a restore would run old tasks again; allow it in the source's settings if you want that"
)


class RedisRestorer(Restorer):
    def __init__(self, link: Link, settings: Mapping[str, Any], place: Place) -> None:
        super().__init__()
        self._link, self._place = link, place
        self._only = set(settings.get("databases") or ())
        self._broker_allowed = bool(settings.get("restore_broker"))
        self._new = f"zantara:restore:{place.token}"
        self._old = f"zantara:restore-old:{place.token}"

    def preflight(self, plain_bytes: int) -> list[Finding]:
        try:
            with self._link.connect(patience_seconds=LOOK_SECONDS) as client:
                return self._preflight(client, plain_bytes)
        except redis.RedisError as error:
            return [Finding("fail", str(self._link.away(error)))]

    def _preflight(self, client: redis.Redis, plain_bytes: int) -> list[Finding]:
        findings = []
        if client.info("cluster").get("cluster_enabled"):
            return [Finding("fail", "a Redis cluster has one database and cannot exchange it: restore by hand")]
        used = used_databases(client)
        if len(used) >= self._count(client):
            findings.append(Finding("fail", "no logical database is empty: empty one, or raise “databases”"))
        memory = client.info("memory")
        limit, needed = int(memory.get("maxmemory", 0)), MEMORY_FACTOR * plain_bytes
        if limit and int(memory["used_memory"]) + needed > limit:
            findings.append(Finding("fail", f"about {needed} bytes more do not fit under maxmemory {limit}: raise it"))
        if not self._broker_allowed and any(
            looks_like_a_broker(self._link.connect(database)) for database in self._wanted(used)
        ):
            findings.append(Finding("fail", _BROKER))
        return findings or [Finding("pass", f"{self._count(client) - len(used)} logical databases are empty")]

    def _wanted(self, databases: list[int]) -> list[int]:
        return [database for database in databases if not self._only or database in self._only]

    @staticmethod
    def _count(client: redis.Redis) -> int:
        try:
            return int(client.config_get("databases").get("databases") or 16)
        except redis.ResponseError:  # CONFIG is not for everybody
            return 16

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise self._link.away(error) from None

    def prepare(self, chunks: Iterator[bytes]) -> None:
        self.discard()
        rdb = self._place.path / "dump.rdb"
        try:
            with rdb.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            with scratch_redis(self._place.path, rdb) as scratch, self._reached():
                self._copy_all(scratch)
        finally:
            rdb.unlink(missing_ok=True)

    def _copy_all(self, scratch: Connect) -> None:
        with scratch(0) as first:
            databases = self._wanted(used_databases(first))
        if not self._broker_allowed and any(looks_like_a_broker(scratch(database)) for database in databases):
            raise CannotRestore(_BROKER[0].upper() + _BROKER[1:] + ".")
        if not databases:
            raise Damaged(
                "The snapshot holds none of the databases to restore.", remedy="Correct the setting databases."
            )
        for database in databases:
            spare = self._claim(database, set(databases))
            with closing(raw(scratch(database))) as source, closing(raw(self._link.connect(spare))) as target:
                _copy(source, target)
        self.memory["databases"] = databases

    def _claim(self, database: int, taken: set[int]) -> int:
        """An empty database, marked ours; those that the restore writes to are not free."""
        with self._link.connect() as client:
            last = self._count(client)
        for spare in reversed(range(last)):
            if spare in taken or spare in self._only:
                continue
            with self._link.connect(spare) as client:
                if client.dbsize() == 0 and client.set(
                    self._new, json.dumps({"database": database, "spare": spare}), nx=True
                ):
                    if client.dbsize() == 1:
                        return spare
                    client.delete(self._new)
        raise CannotRestore(
            "No logical database of this Redis is empty.",
            remedy="Empty one, or raise “databases” in its configuration.",
        )

    def _marked(self, key: str) -> dict[int, dict[str, int]]:
        """Where this marker is now, and what it says."""
        found = {}
        with self._link.connect() as client:
            used = used_databases(client)
        for database in used:
            with self._link.connect(database) as client:
                value = client.get(key)
                if value is not None:
                    found[database] = json.loads(value)
        return found

    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        with self._reached():
            spares = {said["database"]: said["spare"] for said in self._marked(self._new).values()}
            if expectations["databases"] is None:
                return [
                    Finding("pass", f"{len(spares)} databases stand beside; the backup holds no list of their keys")
                ]
            wanted = {name: facts for name, facts in expectations["databases"].items() if self._wanted([int(name)])}
            found = gather(
                lambda database: self._link.connect(spares[database]),
                sorted(spares),
                ignore=lambda key: key == self._new.encode(),
            )
            return compare_facts({"databases": wanted}, found)

    def swap(self) -> None:
        with self._reached():
            pairs = [said for at, said in self._marked(self._new).items() if at == said["spare"]]
            if not pairs:
                if self._marked(self._old):
                    return
                raise RestoreFailed("Nothing stands in a spare database.", remedy="Prepare the restore again.")
            commands: list[tuple[Any, ...]] = []
            for said in pairs:
                commands += [("SELECT", said["database"]), ("SET", self._old, json.dumps(said))]
                commands.append(("SWAPDB", said["database"], said["spare"]))
            self._at_once(commands)

    def undo(self) -> None:
        with self._reached():
            commands: list[tuple[Any, ...]] = []
            for at, said in self._marked(self._old).items():
                if at == said["spare"]:
                    commands.append(("SWAPDB", said["database"], said["spare"]))
                    commands += [("SELECT", said["database"]), ("DEL", self._old)]
            if commands:
                self._at_once(commands)

    def _at_once(self, commands: list[tuple[Any, ...]]) -> None:
        with closing(self._link.connect()) as client:  # its own connection: SELECT must not outlive this
            pipeline = client.pipeline(transaction=True)
            for command in commands:
                ask(pipeline, *command)
            pipeline.execute()
            client.connection_pool.disconnect()

    def discard(self) -> None:
        with self._reached():
            for key in (self._new, self._old):
                for at, said in self._marked(key).items():
                    with self._link.connect(at) as client:
                        if at == said["spare"]:
                            client.flushdb(asynchronous=True)
                        else:
                            client.delete(key)


def _copy(source: redis.Redis, target: redis.Redis) -> None:
    for keys in scan_keys(source):
        dumped = source.pipeline(transaction=False)
        for key in keys:
            ask(dumped, "DUMP", key)
        expiries = expiry_times(source, keys)
        restored = target.pipeline(transaction=False)
        for key, value, expires_at in zip(keys, dumped.execute(), expiries, strict=True):
            if value is not None:  # None: it expired meanwhile
                ask(restored, "RESTORE", key, max(expires_at, 0), value, "ABSTTL")
        try:
            restored.execute()
        except redis.ResponseError as error:
            raise RestoreFailed(
                f"The live Redis does not take a value: {error}.",
                remedy="It is older than the one that was saved, or out of memory: see its version and maxmemory.",
            ) from None


def looks_like_a_broker(client: redis.Redis) -> bool:
    """Whether Celery keeps its queues here."""
    with closing(client):
        return next(client.scan_iter(match=_BROKER_KEYS, count=5000), None) is not None
