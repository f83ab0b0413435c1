"""The journal of a restore, its locks, and what becomes of it when its worker is lost."""

from __future__ import annotations

import pytest

from backups.models import BackupSource, RestoreRecord
from backups.restore import journal as journals
from backups.restore.run import run_restore, tend_restores
from controlplane.kernel import clock
from tests.backups.restore.conftest import Living
from tests.backups.restore.watched import assert_restored, states


def test_the_journal_is_private_whole_and_holds_no_secret_in_the_clear(living: Living) -> None:
    BackupSource.objects.filter(name="ledger").update(secrets={"password": "hunter2"})
    row = living.restore()
    path = journals.path_of(row.name)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert "hunter2" not in path.read_text()
    journal = journals.load(row.name)
    assert journal is not None
    assert (journal.state, journal.is_finished) == ("done", True)
    assert [part.swap for part in journal.parts] == ["done", "done"]
    assert list(path.parent.glob("*.lock")) == []
    assert list(journals.unfinished()) == []


def test_two_workers_on_one_restore_do_it_once(living: Living) -> None:
    saved = living.state()
    living.change()
    row = living.ask()
    assert living.restore(row).state == "done"
    assert run_restore(row.pk, owner="second") is None
    assert_restored(living, saved)
    assert states(row).count("swapping") == 1


def test_the_tick_sends_what_waits_and_what_was_lost(living: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    from backups.engine import sending

    sent: list[tuple[str, int, str]] = []
    monkeypatch.setattr(sending, "send", lambda task, pk, *, queue: sent.append((task, pk, queue)) or True)
    row = living.ask()
    now = row.created_at
    assert tend_restores(now) == 0  # its own message is on the way
    from datetime import timedelta

    assert tend_restores(now + timedelta(minutes=2)) == 1
    RestoreRecord.objects.filter(pk=row.pk).update(state="restoring", lease_expires_at=now + timedelta(seconds=60))
    assert tend_restores(now + timedelta(seconds=30)) == 0  # somebody has it
    assert tend_restores(now + timedelta(seconds=61)) == 1
    assert sent == [("backups.run_restore", row.pk, "proof")] * 2


def test_a_restore_whose_journal_was_lost_ends_as_failed_and_says_so(living: Living) -> None:
    import socket

    row = living.ask()
    begun = [{"step": "begun", "artifact": "", "status": "done", "detail": socket.gethostname()}]
    RestoreRecord.objects.filter(pk=row.pk).update(state="swapping", steps=begun)
    ended = run_restore(row.pk, owner="w")
    assert ended is not None
    assert ended.state == "failed"
    assert "is gone, so nobody can say what was swapped" in ended.error


def test_a_journal_that_cannot_be_read_is_set_aside_for_a_person(living: Living) -> None:
    import socket

    row = living.ask()
    begun = [{"step": "begun", "artifact": "", "status": "done", "detail": socket.gethostname()}]
    RestoreRecord.objects.filter(pk=row.pk).update(state="swapping", steps=begun)
    journals.path_of(row.name).write_text("{half")
    ended = run_restore(row.pk, owner="w")
    assert ended is not None
    assert ended.state == "failed"
    assert (journals.folder() / f"{row.name}.unreadable").read_text() == "{half"


def test_a_turn_that_only_the_row_remembers_is_not_forgotten(living: Living) -> None:
    """The disk was full when the restore was turned back, and then its worker died."""
    from backups.restore import begin

    before = living.change()
    row = living.ask()
    begin.new_journal(row, clock.now())
    for state in ("preflight", "safety_backup", "rolling_back"):
        RestoreRecord.objects.filter(pk=row.pk).update(state=state, error="the disk was full")
    ended = run_restore(row.pk, owner="second")
    assert ended is not None
    assert (ended.state, ended.error) == ("rolled_back", "the disk was full")
    assert living.state() == before


def test_old_journals_are_pruned_but_not_what_is_unfinished(living: Living) -> None:
    from datetime import timedelta

    from backups.restore import begin

    done, waiting = living.restore(), living.ask()
    begin.new_journal(waiting, clock.now())
    (journals.folder() / ".preview-x").mkdir()
    (journals.folder() / f".{done.name}.json.7").touch()
    assert journals.prune(clock.now()) == 0
    assert len(list(journals.folder().glob(".*"))) == 2
    assert journals.prune(clock.now() + timedelta(days=89)) == 0
    assert list(journals.folder().glob(".*")) == []
    assert journals.prune(clock.now() + timedelta(days=91)) == 1
    assert journals.load(done.name) is None
    assert journals.load(waiting.name) is not None


def test_a_restore_that_was_begun_on_another_machine_is_left_to_it(living: Living) -> None:
    row = living.ask()
    begun = [{"step": "begun", "artifact": "", "status": "done", "detail": "elsewhere"}]
    RestoreRecord.objects.filter(pk=row.pk).update(state="swapping", steps=begun)
    assert run_restore(row.pk, owner="w") is None
    row.refresh_from_db()
    assert (row.state, row.lease_token) == ("swapping", 0)
