"""SQLite: consistent under writers, compared row by row, put back only while nobody has it open."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from backups.errors import CannotRestore, CaptureFailed, RestoreFailed
from backups.sources import sqlite_restore
from backups.sources.base import Place
from backups.sources.sqlite import SqliteSource, own_database
from backups.sources.sqlite_restore import SqliteRestorer, alone
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from tests.backups.contracts.taking import Taken, assert_good, drill, failing, finish, fresh, pieces, take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database = tmp_path / "live" / "shop.sqlite3"
    database.parent.mkdir()
    run(
        database,
        "PRAGMA journal_mode=WAL",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, what, total REAL)",
        "INSERT INTO orders (what, total) VALUES ('first', 0.1), ('second', 1e300), (NULL, NULL), (x'ff00', 2)",
    )
    return database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(path: Path, query: str = "SELECT id, what, total FROM orders ORDER BY id") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.execute(query))


def source(path: Path | str) -> SqliteSource:
    return SqliteSource("db", SqliteSource.clean({"path": str(path)}, {}), {})


def prepared(path: Path, taken: Taken, folder: Path) -> SqliteRestorer:
    restorer = source(path).restorer(Place(folder, "token"))
    assert isinstance(restorer, SqliteRestorer)
    restorer.prepare(pieces(taken.data))
    assert_good(restorer.validate(taken.expectations))
    return restorer


def test_what_is_only_in_the_log_is_captured(path: Path, folder: Path) -> None:
    """A copy of the main file alone would be whole, and stale."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("INSERT INTO orders (what) VALUES ('in the log')")
        assert path.with_name(path.name + "-wal").stat().st_size > 0
        copy = folder / "naive.sqlite3"
        shutil.copy(path, copy)
        taken = take(source(path), folder)
    assert taken.expectations["tables"]["orders"]["rows"] == 5
    assert len(rows(copy)) == 4
    assert taken.expectations["journal_mode"] == "wal"
    assert taken.captured.summary == {"tables": 1, "rows": 5}


def test_the_stream_is_one_file_that_stock_tools_open(path: Path, folder: Path) -> None:
    taken = take(source(path), folder)
    target = folder / "restored.sqlite3"
    target.write_bytes(taken.data)
    assert rows(target) == rows(path)
    assert [p.name for p in folder.iterdir()] == ["scratch", "restored.sqlite3"] or not [
        p for p in folder.iterdir() if p.name.endswith(("-wal", "-shm"))
    ]


def test_the_order_of_rows_does_not_matter_and_their_types_do(path: Path, folder: Path) -> None:
    before = take(source(path), folder)
    run(path, "UPDATE orders SET id = id + 100", "UPDATE orders SET id = id - 100", "VACUUM")
    assert_good(drill(source(path), Taken(take(source(path), folder).data, before.captured), folder))
    run(path, "UPDATE orders SET what = 1 WHERE id = 1")
    one = take(source(path), folder)
    run(path, "UPDATE orders SET what = '1' WHERE id = 1")
    said = failing(drill(source(path), Taken(take(source(path), folder).data, one.captured), folder))
    assert said.splitlines()[0] == "table orders has its 4 rows, but not all are as they were"


def test_odd_tables_are_compared_too(path: Path, folder: Path) -> None:
    run(
        path,
        'CREATE TABLE "odd "" name" (a, "b c")',
        'INSERT INTO "odd "" name" VALUES (CAST(x\'ff\' AS TEXT), 1)',
        "CREATE VIRTUAL TABLE search USING fts5(body)",
        "INSERT INTO search VALUES ('words to be found')",
        "CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID",
        "CREATE TABLE generated (a INTEGER, b INTEGER GENERATED ALWAYS AS (a * 2) VIRTUAL)",
        "INSERT INTO generated VALUES (1)",
        "CREATE VIEW seen AS SELECT * FROM orders",
    )
    taken = take(source(path), folder)
    assert 'odd " name' in taken.expectations["tables"]
    assert "search" not in taken.expectations["tables"]
    assert "search_content" in taken.expectations["tables"]
    assert_good(drill(source(path), taken, folder))


def test_a_schema_that_changed_fails_the_drill(path: Path, folder: Path) -> None:
    before = take(source(path), folder)
    run(path, "CREATE INDEX by_what ON orders (what)")
    said = failing(drill(source(path), Taken(take(source(path), folder).data, before.captured), folder))
    assert said == "the schema (tables, indexes, triggers, views) is not as it was"


def test_a_flipped_bit_in_any_page_fails_the_drill(path: Path, folder: Path) -> None:
    many = ["INSERT INTO orders (what) VALUES (hex(randomblob(100)))"] * 200
    run(path, "CREATE INDEX by_what ON orders (what)", *many, "VACUUM")  # no page keeps what is no longer in it
    taken = take(source(path), folder)
    assert len(taken.data) > 10 * 4096
    for page in range(2, len(taken.data) // 4096):
        at = max(at for at in range((page - 1) * 4096, page * 4096) if taken.data[at] in b"0123456789ABCDEF")
        spoiled = taken.data[:at] + bytes([taken.data[at] ^ 1]) + taken.data[at + 1 :]
        assert failing(drill(source(path), taken, folder, data=spoiled)), page


def test_a_capture_waits_for_a_writer_and_can_be_stopped_while_it_waits(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(path, "PRAGMA journal_mode=DELETE")
    monkeypatch.setattr("backups.sources.sqlite.BUSY_SECONDS", 0.1)
    scratch = fresh(folder, "scratch")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("INSERT INTO orders (what) VALUES ('not yet')")
        with pytest.raises(CaptureFailed, match="locked"), source(path).capture(now=clock.now(), scratch=scratch):
            pass
        writer.execute("ROLLBACK")
    assert list(scratch.iterdir()) == []
    assert take(source(path), folder).expectations["tables"]["orders"]["rows"] == 4


def test_a_file_that_is_no_database_is_no_backup(path: Path, folder: Path) -> None:
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(CaptureFailed, match="could not be read"):
        take(source(path), folder)
    assert "cannot be read" in failing(source(path).check())


def test_a_damaged_database_fails_its_capture_or_its_drill(path: Path, folder: Path) -> None:
    run(path, "PRAGMA journal_mode=DELETE", *["INSERT INTO orders (what) VALUES (hex(randomblob(900)))"] * 40)
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 4 * 4096] = b"\xff" * 4096
    path.write_bytes(bytes(data))
    with pytest.raises(CaptureFailed) as caught:
        take(source(path), folder)
    assert "restore it from an earlier backup" in caught.value.remedy


def test_a_restore_keeps_owner_and_mode_and_leaves_no_log_of_the_old(path: Path, folder: Path) -> None:
    path.chmod(0o640)
    taken, before = take(source(path), folder), rows(path)
    run(path, "DELETE FROM orders")
    restorer = prepared(path, taken, folder)
    restorer.swap()
    restorer.discard()
    assert rows(path) == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(("-wal", "-shm"))) == [path.name]


def test_a_stale_log_is_never_replayed_onto_what_was_restored(path: Path, folder: Path) -> None:
    """The writer was killed: its log lies there, and SQLite would replay it into any file of that name."""
    taken, before = take(source(path), folder), rows(path)
    script = (
        "import sqlite3, os, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA wal_autocheckpoint=0')\n"
        "c.execute('DELETE FROM orders')\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    for lost in (False, True):
        if lost:
            path.unlink()
            path.with_name(path.name + "-wal").write_bytes(b"left over" * 1000)
        restorer = prepared(path, taken, folder)
        restorer.swap()
        restorer.discard()
        assert rows(path) == before


@pytest.fixture
def other_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who has the database open and reads it now and then."""
    script = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('SELECT count(*) FROM orders').fetchone()\n"
        "print('open', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_database_that_is_in_use_is_not_swapped(
    path: Path, folder: Path, other_process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_restore, "WAIT_SECONDS", 0.3)
    taken = take(source(path), folder)
    restorer = prepared(path, taken, folder)
    warned = restorer.preflight(len(taken.data))
    assert [finding.status for finding in warned] == ["warn"]
    assert str(other_process.pid) in warned[0].detail
    inode = path.stat().st_ino
    with pytest.raises(RestoreFailed, match=rf"in use by .*{other_process.pid}"):
        restorer.swap()
    assert path.stat().st_ino == inode
    other_process.kill()
    other_process.wait()
    restorer.swap()
    assert path.stat().st_ino != inode


def test_a_swap_waits_for_short_users(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = prepared(path, take(source(path), folder), folder)
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('SELECT count(*) FROM orders').fetchone()\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        looks, look, user = [], sqlite_restore._taken, process.stdin

        def look_and_let_go(*args: Any) -> bool:
            looks.append(look(*args))
            if len(looks) == 4:
                user.close()
            return looks[-1]

        monkeypatch.setattr(sqlite_restore, "_taken", look_and_let_go)
        restorer.swap()
        assert looks[:4] == [False] * 4
        assert looks[-1]


def test_while_it_is_swapped_nobody_else_gets_in(path: Path) -> None:
    with alone(path), closing(sqlite3.connect(path, timeout=0)) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("SELECT count(*) FROM orders").fetchone()


def test_a_database_that_cannot_be_read_is_replaced(path: Path, folder: Path) -> None:
    taken, before = take(source(path), folder), rows(path)
    path.write_bytes(b"\0" * 5000)
    restorer = prepared(path, taken, folder)
    restorer.swap()
    assert rows(path) == before
    restorer.undo()
    assert path.read_bytes() == b"\0" * 5000


def test_a_database_that_was_not_there_is_gone_again_after_undo(path: Path, folder: Path) -> None:
    taken, before = take(source(path), folder), rows(path)
    path.unlink()
    restorer = prepared(path, taken, folder)
    restorer.undo()
    assert not path.exists()
    restorer.swap()
    assert rows(path) == before
    restorer.undo()
    restorer.undo()
    restorer.discard()
    assert list(path.parent.iterdir()) == []


@pytest.mark.faults
@pytest.mark.parametrize("end", ["swap", "undo"])
def test_a_swap_that_stops_at_any_call_goes_on_or_back(
    tmp_path: Path, folder: Path, path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    taken, captured = take(source(path), folder), rows(path)
    run(path, "DELETE FROM orders WHERE id > 1")
    live = rows(path)

    def watched(real: Callable[..., object], step: int, count: list[int]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            count[0] += 1
            if count[0] == step:
                raise Stopped
            return real(*args, **kwargs)

        return call

    stops = 0
    for step in range(1, 30):
        restorer = prepared(path, taken, folder)
        count = [0]
        with monkeypatch.context() as patched:
            for name in ("link", "replace", "unlink", "rename", "open"):
                patched.setattr(os, name, watched(getattr(os, name), step, count))
            try:
                restorer.swap()
            except Stopped:
                stops += 1
        again = source(path).restorer(Place(folder, "token"))
        again.memory = dict(restorer.memory)
        getattr(again, end)()
        assert rows(path) == (captured if end == "swap" else live), step
        again.undo()
        assert rows(path) == live, step
        again.discard()
        assert [p.name for p in path.parent.iterdir() if not p.name.endswith(("-wal", "-shm"))] == [path.name]
    assert stops >= 4


def test_the_control_planes_own_database_is_restored_offline_only(
    tmp_path: Path, folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connection

    if own_database() is None:
        with pytest.raises(Refused, match="no SQLite file"):
            source("control-plane")
        return
    monkeypatch.setitem(connection.settings_dict, "NAME", str(path))
    own = source("control-plane")
    assert own.path == path
    taken, before = take(own, folder), rows(path)
    run(path, "DELETE FROM orders")
    for spelling in ("control-plane", str(path), str(path.parent / ".." / "live" / path.name)):
        restorer = source(spelling).restorer(Place(folder, "token"))
        findings = restorer.preflight(1)
        assert [finding.status for finding in findings] == ["fail"]
        assert "manage.py restore --offline" in findings[0].detail
        with pytest.raises(CannotRestore):
            restorer.prepare(pieces(taken.data))
        with pytest.raises(CannotRestore):
            restorer.swap()
        restorer.undo()
        restorer.discard()
    offline = own.offline_restorer(Place(folder, "token"))
    assert not failing(offline.preflight(1))
    offline.prepare(pieces(taken.data))
    offline.swap()
    assert rows(path) == before


def test_a_relative_path_is_in_the_data_directory() -> None:
    assert source("app.sqlite3").path == Path(django_settings.ZANTARA_DATA_DIR) / "app.sqlite3"
    with pytest.raises(Refused, match="path is missing"):
        source("")


def test_an_interrupted_copy_raises(path: Path, folder: Path) -> None:
    scratch = fresh(folder, "scratch")
    with source(path).capture(now=clock.now(), scratch=scratch) as capture:
        capture.interrupt()
        with pytest.raises(CaptureFailed):
            finish(capture, capture.chunks())
