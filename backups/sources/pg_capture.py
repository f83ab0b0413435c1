"""One consistent reading of a PostgreSQL database: the dump, and what it must contain, from the same snapshot."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg

from backups.errors import CaptureFailed

from . import pg_expect
from .base import Capture, Captured
from .pg_connect import LOCK_SECONDS, Address, Programs, first_line, programs_for, server_major
from .pg_load import MAGIC
from .programs import Program

_CORES = 4
_CANCEL_SECONDS = 3.0
_WAIT_SECONDS = 0.2


class PostgresCapture(Capture):
    """Our own transaction exports its snapshot; ``pg_dump`` dumps that snapshot, and we count and hash in it.

    Both at once where there are cores for it, else one after the other: the dump is through sooner, and the sum of
    both is the same (measured on 2 cores).
    """

    def __init__(self, address: Address, *, at_once: bool | None = None) -> None:
        self._address = address
        self._at_once = _has_cores_to_spare(address) if at_once is None else at_once
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._program: Program | None = None
        self._programs: Programs | None = None
        self._contents: dict[str, Any] = {}
        self._failure: str | None = None
        self._at_table = "the first table"
        self._head = b""
        self._interrupted = False
        self._counter = threading.Thread(target=self._count, name="pg-expectations", daemon=True)

    def __enter__(self) -> PostgresCapture:
        self._connection = self._address.connect()
        try:
            self._begin(self._connection)
        except psycopg.Error as error:
            self.__exit__()
            raise CaptureFailed(
                f"The reading of {self._address.database} could not begin: {first_line(error)}.",
                remedy="If it is a lock: see which session holds it, and start the backup again. Otherwise give the "
                "user the right to read every table (pg_read_all_data).",
            ) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._programs = programs_for("pg_dump", server_major(connection))
        pg_expect.pin(connection)
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{LOCK_SECONDS}s",))
        self._facts = pg_expect.database_facts(connection)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None  # noqa: S101
        pg_expect.lock(connection, [(schema, name) for schema, name, _ in pg_expect.tables(connection)])
        self._sequences = pg_expect.sequences(connection)
        self._program = Program(
            [
                self._programs.path("pg_dump"), "--format=custom", "--compress=0", f"--snapshot={row[0]}",
                f"--lock-wait-timeout={LOCK_SECONDS * 1000}", "--no-password", f"--dbname={self._address.argument()}",
            ],
            environ=self._address.environ(),
        )  # fmt: skip
        self._started = time.monotonic()

    def __exit__(self, *exc: object) -> None:
        self.interrupt()
        if self._program is not None:
            self._program.end()
        if self._counter.is_alive():
            self._counter.join(_CANCEL_SECONDS)
        if self._connection is not None:
            self._connection.close()
        if self._counter.is_alive():
            self._counter.join(_CANCEL_SECONDS)

    def interrupt(self) -> None:
        self._interrupted = True
        if self._program is not None:
            self._program.interrupt()
        if self._counter.is_alive() and self._connection is not None:
            with suppress(psycopg.Error):  # a server that is gone or frozen: closing the connection ends it, too
                self._connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def chunks(self) -> Iterator[bytes]:
        assert self._program is not None  # noqa: S101
        for chunk in self._program.chunks():
            if not self._head and self._at_once:
                # The archive's beginning is written once the snapshot is taken over and every table locked.
                self._counter.start()
            if len(self._head) < len(MAGIC):
                self._head += chunk[: len(MAGIC)]
            yield chunk
        self._stream_seconds = time.monotonic() - self._started

    def finish(self) -> Captured:
        assert self._program is not None  # noqa: S101
        assert self._programs is not None  # noqa: S101
        code = self._program.wait(30)
        if code or not self._head.startswith(MAGIC):
            self._fail(
                f"pg_dump exited with {code}"
                + (f": {self._program.complaint[-800:]}" if self._program.complaint else "")
                if code
                else "pg_dump wrote no archive"
            )
        if not self._at_once and not self._interrupted:
            self._counter.start()
        while self._counter.is_alive() and not self._interrupted:
            self._counter.join(_WAIT_SECONDS)
        if self._interrupted:
            if self._counter.is_alive():
                self._counter.join(_CANCEL_SECONDS)
            if self._counter.is_alive() or self._failure is None:
                self._fail("it was stopped before its end")
        if self._failure is not None or not self._contents:
            self._fail(f"counting failed at {self._at_table}: {self._failure or 'see the log'}")
        return self._captured(self._programs)

    def _captured(self, programs: Programs) -> Captured:
        assert self._connection is not None  # noqa: S101
        try:
            after = {(one["schema"], one["name"]): one["at"] for one in pg_expect.sequences(self._connection)}
            self._connection.execute("COMMIT")
        except psycopg.Error as error:
            self._fail(f"the connection was lost at the end: {first_line(error)}")
        sequences = [
            {
                "schema": one["schema"], "name": one["name"], "cycles": one["cycles"],
                "from": one["at"], "to": after.get((one["schema"], one["name"]), one["at"]),
            }
            for one in self._sequences
        ]  # fmt: skip
        tables = self._contents["tables"]
        large = self._contents["large_objects"]
        return Captured(
            expectations={
                "algorithm": pg_expect.ALGORITHM,
                "database": self._address.database,
                "dumped_by_major": programs.major,
                "facts": self._facts,
                "sequences": sequences,
                **self._contents,
            },
            summary={
                "tables": len(tables),
                "rows": sum(table["rows"] for table in tables),
                "sequences": len(sequences),
                **({"large_objects": large["count"]} if large["count"] else {}),
                "expectations_seconds": round(self._count_seconds, 2),
                "stream_seconds": round(self._stream_seconds, 2),
            },
            tools={"pg_dump": programs.version, "server": str(self._facts["server_version"])},
        )

    def _count(self) -> None:
        assert self._connection is not None  # noqa: S101
        started = time.monotonic()
        try:
            self._contents = pg_expect.contents(self._connection, began=self._begin_table)
        except psycopg.Error as error:
            self._failure = first_line(error)
        self._count_seconds = time.monotonic() - started

    def _begin_table(self, name: str) -> None:
        self._at_table = name

    def _fail(self, why: str) -> None:
        raise CaptureFailed(
            f"The database {self._address.database} could not be saved: {why}.",
            remedy="See that the server ran all the while and that the user may read everything in it.",
        )


def _has_cores_to_spare(address: Address) -> bool:
    """Dumping, compressing and encrypting keep two cores busy; a server elsewhere has its own."""
    host = address.parameters.get("host", "")
    is_here = host.startswith("/") or host in {"", "localhost", "127.0.0.1", "::1"}
    return not is_here or (os.cpu_count() or 1) >= _CORES
