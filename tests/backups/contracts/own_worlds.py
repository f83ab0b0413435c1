"""The worlds of the kinds that need no server of their own, and Redis."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backups.sources.base import Source
from backups.sources.files import FilesSource
from backups.sources.logs import LogsSource
from backups.sources.sqlite import SqliteSource

from .worlds import World, tree, world


def without_staging(base: Path) -> dict[str, Any]:
    return {name: entry for name, entry in tree(base).items() if not name.startswith(".zantara-restore-")}


class FilesWorld(World):
    exact = False  # files that came since stay

    def __init__(self, base: Path) -> None:
        self.base = base
        base.mkdir()
        (base / "conf").mkdir()
        (base / ".env").write_text("A=1\n")
        (base / ".env").chmod(0o600)
        (base / "conf" / "app.ini").write_text("[app]\n")
        (base / "conf" / "large").write_bytes(os.urandom(3_000_000))
        (base / "conf" / "empty").write_bytes(b"")
        (base / "conf" / "current").symlink_to("app.ini")
        for path in base.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (1_700_000_000, 1_700_000_000))

    def source(self) -> Source:
        settings = {"base": str(self.base), "patterns": [".env", "conf"]}
        return FilesSource("files", FilesSource.clean(settings, {}), {})

    def state(self) -> Any:
        return without_staging(self.base)

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        (self.base / "conf" / "app.ini").write_text("[abb]\n")
        return "conf/app.ini"

    def remove(self) -> str:
        (self.base / "conf" / "current").unlink()
        return "conf/current"

    def add(self) -> str:
        (self.base / "conf" / "new").write_text("new")
        return "conf/new"

    def write_once(self, number: int) -> None:
        new = self.base / "conf" / f"busy-{number % 3}.new"
        new.write_text(f"{number}")
        new.rename(new.with_suffix(".ini"))

    def empty(self) -> None:
        shutil.rmtree(self.base / "conf")
        (self.base / ".env").unlink()


@world("files")
def _files(request: pytest.FixtureRequest) -> World:
    return FilesWorld(request.getfixturevalue("tmp_path") / "config")


class LogsWorld(FilesWorld):
    restores_in_place = False

    def __init__(self, base: Path) -> None:
        self.base = base
        base.mkdir()
        (base / "web.log").write_text("first line\n" * 1000)
        (base / "web.log.1").write_text("older line\n" * 1000)
        (base / "work.log.2.gz").write_bytes(os.urandom(100_000))

    def source(self) -> Source:
        return LogsSource("logs", LogsSource.clean({"base": str(self.base)}, {}), {})

    def restored_state(self, token: str) -> Any:
        return without_staging(self.base.with_name(f"{self.base.name}-restored") / token)

    def change(self) -> str:
        (self.base / "web.log.1").write_text("other line\n" * 1000)
        return "web.log.1"

    def remove(self) -> str:
        (self.base / "work.log.2.gz").unlink()
        return "work.log.2.gz"

    def add(self) -> str:
        (self.base / "beat.log").write_text("new\n")
        return "beat.log"

    def write_once(self, number: int) -> None:
        with (self.base / "web.log").open("a") as log:
            log.write(f"line {number}\n")

    def empty(self) -> None:
        shutil.rmtree(self.base)


@world("logs")
def _logs(request: pytest.FixtureRequest) -> World:
    return LogsWorld(request.getfixturevalue("tmp_path") / "logs")


class SqliteWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._run("PRAGMA journal_mode=WAL")
        self._run("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, total REAL, raw BLOB)")
        self._run("CREATE TABLE customers (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._run("CREATE INDEX by_customer ON orders (customer)")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany(
                "INSERT INTO orders (customer, total, raw) VALUES (?, ?, ?)",
                [(f"c{n}", n / 7, bytes([n % 256])) for n in range(2000)],
            )
            connection.executemany("INSERT INTO customers VALUES (?)", [(f"c{n}",) for n in range(50)])

    def _run(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path, timeout=20)) as connection, connection:
            connection.execute(sql)

    def source(self) -> Source:
        return SqliteSource("db", SqliteSource.clean({"path": str(self.path)}, {}), {})

    def state(self) -> Any:
        with closing(sqlite3.connect(self.path, timeout=20)) as connection:
            return list(connection.iterdump())

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        self._run("UPDATE orders SET total = total + 1 WHERE id = 77")
        return "orders"

    def remove(self) -> str:
        self._run("DELETE FROM customers WHERE name = 'c7'")
        return "customers"

    def add(self) -> str:
        self._run("INSERT INTO orders (customer) VALUES ('new')")
        return "orders"

    def write_once(self, number: int) -> None:
        self._run(f"INSERT INTO orders (customer, total) VALUES ('busy', {number})")

    def empty(self) -> None:
        self.path.unlink()


@world("sqlite")
def _sqlite(request: pytest.FixtureRequest) -> World:
    return SqliteWorld(request.getfixturevalue("tmp_path") / "shop.sqlite3")
