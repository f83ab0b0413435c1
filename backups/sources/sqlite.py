"""An SQLite database: SQLite's own backup API into scratch in one step, then streamed.

Never a copy of the file: that of a database in WAL mode passes every check and is silently stale. One step: with
several, each write of somebody else would begin the copy anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from backups.errors import CaptureFailed
from controlplane.kernel.errors import Refused

from .base import Capture, Captured, Finding, Place, Restorer, SettingField, Source
from .files import clean_path
from .programs import CHUNK_BYTES
from .sqlite_restore import SqliteRestorer
from .sqlite_tables import drill_file, facts, inspect_stream

#: Written instead of a path: the database that Django uses here.
CONTROL_PLANE = "control-plane"
OFFLINE_ONLY = (
    "the control plane cannot replace its own database while it runs: "
    "restore it offline: stop the stack and run manage.py restore --offline"
)
BUSY_SECONDS = 20.0


class SqliteCapture(Capture):
    def __init__(self, path: Path, scratch: Path) -> None:
        self._path, self._copy = path, scratch / "copy.sqlite3"
        self._interrupted = False

    def __enter__(self) -> SqliteCapture:
        try:
            with (
                closing(_connect(self._path)) as live,
                closing(sqlite3.connect(self._copy, isolation_level=None)) as copy,
            ):
                self._journal_mode = live.execute("PRAGMA journal_mode").fetchone()[0]
                live.backup(copy, pages=-1, progress=self._look_up)
                # The copy must be whole in its one file, without a log beside it.
                copy.execute("PRAGMA journal_mode=DELETE").fetchone()
        except (sqlite3.Error, OSError) as error:
            self._remove()
            raise CaptureFailed(
                f"{self._path} could not be read: {error}.",
                remedy="Correct the source's path, or this user's right to read the file and write beside it.",
            ) from None
        except BaseException:
            self._remove()
            raise
        return self

    def _look_up(self, status: int, remaining: int, total: int) -> None:
        if self._interrupted:
            raise CaptureFailed(f"The copy of {self._path} was stopped.", remedy="Run the backup again.")

    def __exit__(self, *exc: object) -> None:
        self._remove()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self._copy.with_name(self._copy.name + suffix).unlink(missing_ok=True)

    def interrupt(self) -> None:
        self._interrupted = True

    def chunks(self) -> Iterator[bytes]:
        with self._copy.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                self._look_up(0, 0, 0)
                yield chunk

    def finish(self) -> Captured:
        self._look_up(0, 0, 0)
        try:
            found = facts(self._copy)
        except sqlite3.Error as error:
            raise CaptureFailed(
                f"The copy of {self._path} cannot be read: {error}.",
                remedy="The database itself is damaged: repair it, or restore it from an earlier backup.",
            ) from None
        tables = found["tables"]
        rows = sum(table["rows"] for table in tables.values())
        return Captured(
            expectations={**found, "bytes": self._copy.stat().st_size, "journal_mode": self._journal_mode},
            summary={"tables": len(tables), "rows": rows},
            tools={"sqlite": sqlite3.sqlite_version},
        )


def _connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None)


class SqliteSource(Source):
    kind = "sqlite"
    label = "SQLite database"
    description = "A database file, copied consistently while it is written to."
    fields = (
        SettingField(
            "path", "File", "path",
            f"Relative ones are in the data directory. “{CONTROL_PLANE}”: the control plane's own database.",
            required=True,
        ),
    )  # fmt: skip
    group = "databases"
    file_name = "database.sqlite3"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        path = clean_path("path", settings.get("path", ""))
        if not path:
            raise Refused("path is missing.", remedy="Name the database file.")
        if path == CONTROL_PLANE and own_database() is None:
            raise Refused(
                "path: the control plane's database is no SQLite file here.",
                remedy="Use a source of the kind postgres for it.",
            )
        return {"path": path}

    @property
    def path(self) -> Path:
        own = own_database()
        if self.settings["path"] == CONTROL_PLANE:
            if own is None:
                raise Refused(
                    "The control plane's database is no SQLite file here.", remedy="Use a source of the kind postgres."
                )
            return own
        return Path(django_settings.ZANTARA_DATA_DIR) / str(self.settings["path"])

    def check(self) -> list[Finding]:
        try:
            path = self.path
            with closing(_connect(path)) as connection:
                tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        except (sqlite3.Error, OSError, Refused) as error:
            return [Finding("fail", f"{self.settings['path']} cannot be read: {error}")]
        return [Finding("pass", f"{path}: {tables} tables, {path.stat().st_size} bytes")]

    def capture(self, *, now: datetime, scratch: Path) -> AbstractContextManager[Capture]:
        return SqliteCapture(self.path, scratch)

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        return inspect_stream(chunks, expectations)

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        target = place.path / self.file_name
        with target.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
        return drill_file(target, expectations)

    def restorer(self, place: Place) -> Restorer:
        own = own_database()
        refusal = OFFLINE_ONLY if own is not None and self.path.resolve() == own.resolve() else ""
        return SqliteRestorer(self.path, place, refusal=refusal)

    def offline_restorer(self, place: Place) -> SqliteRestorer:
        """For ``manage.py restore --offline`` alone: the stack is stopped, so its own database may be replaced."""
        return SqliteRestorer(self.path, place)

    def expected_bytes(self) -> int | None:
        try:
            return self.path.stat().st_size
        except (OSError, Refused):
            return None

    @classmethod
    def stock_command(cls) -> str:
        return f"cat > {cls.file_name}"


def own_database() -> Path | None:
    """Django's default database, if that is an SQLite file."""
    database = django_settings.DATABASES["default"]
    if not str(database["ENGINE"]).endswith("sqlite3"):
        return None
    from django.db import connection  # tests move the database elsewhere

    return Path(connection.settings_dict["NAME"])
