"""Restores of a running system that fail or are cancelled, and put everything back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from backups.restore.requests import request_cancel
from backups.restore.run import run_restore
from controlplane.kernel.errors import Refused
from controlplane.notifications.models import Message
from tests.backups.restore.conftest import Living
from tests.backups.restore.watched import steps


def test_a_system_that_is_unwell_afterwards_is_put_back_with_its_services(with_service: Callable[[], Living]) -> None:
    living = with_service()
    before = living.change()
    living.unwell_when_restored()
    ended = living.restore(options={"stop_services": True})
    assert living.health.answers == {200, 503}
    assert ended.state == "rolled_back"
    assert "The health score after the start is 0, 80 are needed: api failed" in ended.error
    assert ended.score == 0
    assert living.state() == before
    assert living.service_runs()
    assert living.service_log() == ["start", "stop", "start", "stop", "start"]
    assert living.leftovers() == []
    message = Message.objects.get()
    assert (message.kind, message.key) == ("restore_failed", f"restore_failed:{ended.name}")
    assert "Everything is as it was before." in message.body


def test_a_bit_that_flipped_in_the_store_is_found_before_the_swap(living: Living) -> None:
    before = living.change()
    part = next((living.root / "store" / living.record.prefix / "ledger").glob("part-*"))
    body = bytearray(part.read_bytes())
    body[len(body) // 2] ^= 1
    part.write_bytes(bytes(body))
    row = living.restore()
    assert row.state == "rolled_back"
    assert living.state() == before
    assert living.leftovers() == []
    assert not any(step == "swap" for step, _, _ in steps(row))


def test_a_part_that_is_not_what_was_expected_is_not_swapped(living: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    from backups.sources.sqlite_restore import SqliteRestorer

    before, really = living.change(), SqliteRestorer.validate

    def one_row_less(self: SqliteRestorer, expectations: Any) -> Any:
        with closing(sqlite3.connect(self.staged)) as connection:
            connection.execute("DELETE FROM entries WHERE id = 7")
            connection.commit()
        return really(self, expectations)

    monkeypatch.setattr(SqliteRestorer, "validate", one_row_less)
    row = living.restore()
    assert row.state == "rolled_back"
    assert "ledger as restored is not what was saved" in row.error
    assert living.state() == before
    assert living.leftovers() == []


def test_a_database_that_stays_in_use_is_not_swapped_and_the_files_go_back(
    living: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups.sources import sqlite_restore

    monkeypatch.setattr(sqlite_restore, "WAIT_SECONDS", 0.2)
    before = living.change()
    with closing(sqlite3.connect(living.database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("SELECT count(*) FROM entries").fetchone()
        row = living.restore()
    assert row.state == "rolled_back"
    assert "is in use by" in row.error
    assert ("swap", "config", "done") in steps(row)  # the first part was live already
    assert ("undo", "config", "done") in steps(row)
    assert living.state() == before
    assert living.leftovers() == []


def test_a_service_that_cannot_be_started_takes_the_restore_back_and_is_named(
    with_service: Callable[[], Living],
) -> None:
    living = with_service()
    before = living.change()
    (living.service / "broken-start").touch()
    row = living.restore(options={"stop_services": True})
    assert row.state == "failed"
    assert "toy could not be started; start it by hand." in row.error
    assert "hunter2" not in row.error + json.dumps(row.steps)
    assert living.state() == before
    assert Message.objects.get().severity == 30


def test_where_undoing_fails_the_safety_backup_is_restored(living: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    from backups.sources.sqlite_restore import SqliteRestorer

    before, calls = living.change(), []

    def broken(self: SqliteRestorer) -> None:
        calls.append("undo")
        self.before.unlink()  # what was kept is really gone
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(SqliteRestorer, "undo", broken)
    living.unwell_when_restored()
    ended = living.restore()
    assert calls == ["undo"]
    assert ended.state == "rolled_back"
    assert ("undo_from_safety_backup", "ledger", "done") in steps(ended)
    assert living.state() == before
    assert living.leftovers() == []


def test_where_that_fails_too_it_is_said_what_stands_where(
    with_service: Callable[[], Living], monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups.sources.sqlite_restore import SqliteRestorer

    living = with_service()
    saved, changed = living.state(), living.change()

    def broken(self: SqliteRestorer) -> None:
        shutil.rmtree(living.root / "store")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(SqliteRestorer, "undo", broken)
    living.unwell_when_restored()
    ended = living.restore(options={"stop_services": True})
    assert ended.state == "failed"
    assert "ledger could not be put back (undo: OSError" in ended.error
    assert f"The safety backup {ended.safety_record} holds it." in ended.error
    assert living.service_runs()  # in any case
    state = living.state()
    assert state["files"] == changed["files"]  # the other part went back
    assert state["rows"] == saved["rows"]
    kept = [path for path in living.leftovers() if ".before-" in path]
    assert kept, "what was kept of the live database may be all that is left of it"
    with closing(sqlite3.connect(living.root / kept[0])) as connection:
        assert connection.execute("SELECT id, text FROM entries ORDER BY id").fetchall() == changed["rows"]
    assert Message.objects.get().severity == 30


def test_a_restore_that_is_cancelled_midway_puts_everything_back(
    living: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups.restore import tracking
    from backups.sources.sqlite_restore import SqliteRestorer

    monkeypatch.setattr(tracking, "PUBLISH_SECONDS", 0.0)
    before, really = living.change(), SqliteRestorer.validate
    row = living.ask()

    def validate(self: SqliteRestorer, expectations: Any) -> Any:
        assert request_cancel(row, actor="ops") == "requested"
        return really(self, expectations)

    monkeypatch.setattr(SqliteRestorer, "validate", validate)
    ended = living.restore(row)
    assert (ended.state, ended.error) == ("rolled_back", "Somebody asked this restore to stop.")
    assert living.state() == before
    with pytest.raises(Refused, match="nothing to cancel"):
        request_cancel(ended, actor="ops")


def test_a_restore_that_waits_is_cancelled_at_once(living: Living) -> None:
    row = living.ask()
    assert request_cancel(row, actor="ops") == "cancelled"
    assert run_restore(row.pk, owner="w") is None
    row.refresh_from_db()
    assert row.state == "cancelled"
