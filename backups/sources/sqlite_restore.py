"""Put an SQLite file back: restored beside, then one rename while nobody else has the database open.

Beside the live file stand ``.<name>.restore-<token>`` (what was restored) and ``.<name>.before-<token>`` (the live one,
kept by a link from the moment of the swap until it is discarded).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from backups.errors import CannotRestore, RestoreFailed

from .base import Finding, Place, Restorer
from .sqlite_tables import drill_file
from .tree_restore import SPACE_FACTOR, free_bytes

#: How long a swap waits for others to close the database.
WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.05
_SIDECARS = ("-wal", "-shm", "-journal")


class SqliteRestorer(Restorer):
    """``memory``: path, token, existed (whether there was a live file when the restore was prepared)."""

    def __init__(self, path: Path, place: Place, *, refusal: str = "") -> None:
        super().__init__()
        self._refusal = refusal
        self._path, self._token = path.absolute(), place.token

    @property
    def path(self) -> Path:
        return Path(self.memory.get("path", self._path))

    @property
    def staged(self) -> Path:
        return self.path.with_name(f".{self.path.name}.restore-{self.memory.get('token', self._token)}")

    @property
    def before(self) -> Path:
        return self.path.with_name(f".{self.path.name}.before-{self.memory.get('token', self._token)}")

    def _refuse(self) -> None:
        if self._refusal:
            raise CannotRestore(self._refusal[0].upper() + self._refusal[1:] + ".")

    def preflight(self, plain_bytes: int) -> list[Finding]:
        if self._refusal:
            return [Finding("fail", self._refusal)]
        folder = self.path.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            return [Finding("fail", f"{folder} is no directory that this user can write: correct its owner or mode")]
        free = free_bytes(folder)
        if free < SPACE_FACTOR * plain_bytes:
            return [
                Finding(
                    "fail", f"{free} bytes are free in {folder}, {SPACE_FACTOR * plain_bytes} are needed: make room"
                )
            ]
        users = who_has_open(self.path)
        if users:
            return [Finding("warn", f"{self.path} is open in {', '.join(users)}: stop what uses it during the restore")]
        return [Finding("pass", f"{folder} can be written and has room")]

    def prepare(self, chunks: Iterator[bytes]) -> None:
        self._refuse()
        self.discard()
        self.memory.update(path=str(self.path), token=self._token, existed=self.path.exists())
        with self.staged.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if self.path.exists():
            shutil.copymode(self.path, self.staged)
            if os.geteuid() == 0:
                info = self.path.stat()
                os.chown(self.staged, info.st_uid, info.st_gid)

    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        if not self.staged.exists():
            return [Finding("fail", f"{self.staged} is not there: prepare the restore again")]
        return drill_file(self.staged, expectations)

    def swap(self) -> None:
        self._refuse()
        if not self.staged.exists():
            if self._swapped():
                return
            raise RestoreFailed(f"{self.staged} is not there.", remedy="Prepare the restore again.")
        if not self.path.exists():
            _remove(self.path, _SIDECARS)  # a log of a database that is gone would be replayed onto the new one
            self.staged.replace(self.path)
        else:
            with alone(self.path):
                if not self.before.exists():
                    os.link(self.path, self.before)
                _remove(self.path, _SIDECARS)
                self.staged.replace(self.path)
        _sync(self.path.parent)

    def _swapped(self) -> bool:
        return self.path.exists() and (self.before.exists() or self.memory.get("existed") is False)

    def undo(self) -> None:
        if self.before.exists():
            if not (self.path.exists() and self.path.samefile(self.before)):
                back = self.before.with_name(self.before.name + ".back")
                back.unlink(missing_ok=True)
                os.link(self.before, back)
                _remove(self.path, _SIDECARS)
                back.replace(self.path)
        elif self.memory.get("existed") is False and not self.staged.exists():
            _remove(self.path, ("", *_SIDECARS))
        _sync(self.path.parent)

    def discard(self) -> None:
        for path in (self.staged, self.before):
            _remove(path, ("", ".back", *_SIDECARS))


def _remove(path: Path, suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def alone(path: Path, wait_seconds: float | None = None) -> Iterator[None]:
    """Hold the database at ``path`` exclusively, all in its one file; RestoreFailed where others keep it open.

    Leaving WAL mode is possible for the only connection alone, so it is the proof that nobody else has it open.
    A file that SQLite cannot read at all is nobody's: it is replaced as it is.
    """
    deadline = time.monotonic() + (WAIT_SECONDS if wait_seconds is None else wait_seconds)
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        while not _taken(connection, path):
            if time.monotonic() > deadline:
                users = ", ".join(who_has_open(path)) or "another process"
                raise RestoreFailed(
                    f"{path} is in use by {users}.",
                    remedy="Stop what uses it (the option “stop services”), then retry.",
                )
            time.sleep(_POLL_SECONDS)
        yield
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _taken(connection: sqlite3.Connection, path: Path) -> bool:
    try:
        if connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0] not in ("delete", "memory"):
            return False
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:  # no database, or a damaged one: the reason for restoring it
        return True
    if path.with_name(path.name + "-wal").exists():  # somebody went back to WAL mode in between
        connection.execute("ROLLBACK")
        return False
    return True


def who_has_open(path: Path) -> list[str]:
    """Other processes that have this file open, as far as this user may see: ``name (pid)``."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    users = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid() and _has_open(process, wanted):
            with suppress(OSError):
                users.append(f"{(process / 'comm').read_text('utf-8').strip()} ({process.name})")
    return users


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        for fd in (process / "fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(fd.stat(), wanted):
                    return True
    except OSError:
        pass
    return False
