"""Restores of a running system: those that go well, those that are refused, and those that are taken back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backups.errors import CannotRestore, RestoreFailed
from backups.models import BackupRecord, BackupSource, ControlledService, RestoreEvent, RestoreRecord
from backups.restore import journal as journals
from backups.restore.preview import preview
from backups.restore.requests import request_cancel, request_restore
from backups.restore.run import run_restore, tend_restores
from controlplane.kernel import clock, leases
from controlplane.kernel.errors import Refused
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.restore.conftest import Living


def states(row: RestoreRecord) -> list[str]:
    return [event.to_state for event in RestoreEvent.objects.filter(subject=row)]


def steps(row: RestoreRecord) -> list[tuple[str, str, str]]:
    return [(step["step"], step["artifact"], step["status"]) for step in row.steps]


def assert_restored(living: Living, saved: dict[str, Any]) -> None:
    state = living.state()
    assert state["rows"] == saved["rows"]
    assert {path: state["files"].get(path) for path in saved["files"]} == saved["files"]


# --- what goes well ---------------------------------------------------------------------------------------------


def test_a_restore_brings_files_and_a_database_back_and_leaves_nothing_beside(living: Living) -> None:
    saved = living.state()
    changed = living.change()
    assert changed != saved
    row = living.restore()
    assert (row.state, row.error, row.score) == ("done", "", 100)
    assert_restored(living, saved)
    assert living.leftovers() == []
    assert states(row) == [
        "queued", "preflight", "safety_backup", "stopping", "restoring", "validating", "swapping", "starting",
        "checking", "done",
    ]  # fmt: skip
    assert {status for _, _, status in steps(row)} == {"done"}
    assert ("swap", "ledger", "done") in steps(row)
    assert Message.objects.count() == 0
    assert (row.lease_owner, row.lease_expires_at) == ("", None)


def test_the_last_move_gives_the_lease_back_so_that_a_worker_that_dies_right_after_it_holds_nothing(
    living: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[leases.Lease] = []
    monkeypatch.setattr(leases.Lease, "release", calls.append)  # what a killed worker does not come to
    row = living.restore()
    assert [lease.pk for lease in calls if lease.model is RestoreRecord] == [row.pk]
    assert (row.state, row.lease_owner, row.lease_expires_at) == ("done", "", None)


def test_the_safety_backup_is_a_committed_set_of_exactly_the_restored_parts(living: Living) -> None:
    changed = living.change()
    row = living.restore(artifacts=["config"])
    assert row.state == "done"
    safety = row.safety_record
    assert safety is not None
    assert (safety.state, safety.trigger, safety.requested_by) == ("committed", "safety", "ops")
    assert list(safety.artifacts.values_list("name", flat=True)) == ["config"]
    assert living.state()["rows"] == changed["rows"]  # the part that nobody wanted back is as it was
    # and it can be gone back to like any other
    again = run_restore(
        request_restore(safety, artifacts=["config"], requested_by="ops", reason="back", send=False).pk,
        owner="worker-1",
        patience_seconds=1,
    )
    assert again is not None
    assert again.state == "done"
    assert (living.tree / "app.env").read_text() == "MODE=broken\n"


def test_services_are_stopped_before_the_swap_and_started_after_it(with_service: Callable[[], Living]) -> None:
    living = with_service()
    living.change()
    row = living.restore(options={"stop_services": True})
    assert row.state == "done"
    assert living.service_runs()
    assert living.service_log() == ["start", "stop", "start"]
    order = [(step, part) for step, part, _ in steps(row)]
    assert order.index(("stop", "toy")) < order.index(("swap", "config")) < order.index(("start", "toy"))


def test_a_service_that_did_not_run_is_not_started(living: Living) -> None:
    row = living.restore(options={"stop_services": True})
    assert row.state == "done"
    assert not living.service_runs()
    assert not (living.service / "log").exists()


def test_services_are_left_alone_by_default(with_service: Callable[[], Living]) -> None:
    living = with_service()
    assert living.restore().state == "done"
    assert living.service_log() == ["start"]


def test_without_named_parts_the_options_choose_by_group(living: Living) -> None:
    with pytest.raises(CannotRestore, match="nothing is restored"):
        living.ask(artifacts=[])  # vectors alone by default, and there are none
    assert living.ask(artifacts=[], options={"configuration": True}).artifacts == ["config"]
    assert living.ask(artifacts=[], options={"databases": True}).artifacts == ["ledger"]


def test_restores_of_a_day_have_names_of_their_own(living: Living) -> None:
    now = factories.NOW
    names = [living.ask(now=now).name for _ in range(3)]
    assert names == ["zantara-restore-2026-11-23", "zantara-restore-2026-11-23-2", "zantara-restore-2026-11-23-3"]


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(living: Living, **request: Any) -> str:
    """The reason; nothing may have changed."""
    before = living.state()
    count = BackupRecord.objects.count()
    row = living.restore(**request)
    assert row.state == "refused", (row.state, row.error)
    assert living.state() == before
    assert living.leftovers() == []
    assert BackupRecord.objects.count() == count  # no safety backup either
    assert Message.objects.count() == 0
    return row.error


def test_without_an_identity_nothing_is_begun(living: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZANTARA_DRILL_IDENTITY_FILE")
    assert "not possible: no identity" in refused(living)


def test_an_identity_that_is_no_recipient_is_refused_before_anything_is_touched(living: Living, tmp_path: Path) -> None:
    import pyrage

    other = tmp_path / "other.txt"
    other.write_text(str(pyrage.x25519.Identity.generate()) + "\n")
    before = living.change()
    row = run_restore(living.ask().pk, owner="w", identity_file=other)
    assert row is not None
    assert (row.state, living.state()) == ("refused", before)
    assert "none of those that the set was encrypted to" in row.error


def test_the_recovery_key_restores_too(living: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZANTARA_DRILL_IDENTITY_FILE")
    saved = living.state()
    living.change()
    key = living.root / "data" / "secrets" / "recovery_key.txt"
    row = run_restore(living.ask().pk, owner="w", identity_file=key, patience_seconds=1)
    assert row is not None
    assert row.state == "done"
    assert_restored(living, saved)


def test_a_set_without_commit_or_with_another_manifest_is_refused(living: Living) -> None:
    store = living.root / "store" / living.record.prefix
    commit = (store / "COMMIT").read_bytes()
    (store / "COMMIT").unlink()
    assert "it has no COMMIT object" in refused(living)
    (store / "COMMIT").write_bytes(commit)
    BackupRecord.objects.filter(pk=living.record.pk).update(manifest_sha256="0" * 64)
    assert "is not the one that was stored" in refused(living)


def test_a_damaged_part_is_refused(living: Living) -> None:
    living.record.artifacts.filter(name="config").update(damaged_at=clock.now(), damage="one bit")
    assert "config: it was found damaged: one bit" in refused(living)


def test_too_little_space_is_refused(living: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    living.record.artifacts.filter(name="config").update(plain_bytes=2**60)
    assert "MiB are needed (twice what is restored)" in refused(living)


def test_an_unknown_service_is_refused(living: Living) -> None:
    assert "Nothing here can stop the service 'nginx'" in refused(living, options={"services": ["nginx"]})


def test_a_part_in_no_plan_needs_the_option_to_go_without_a_safety_backup(living: Living) -> None:
    living.plan.sources.clear()
    assert "no safety backup can be made" in refused(living)
    row = living.restore(options={"without_safety_backup": True})
    assert (row.state, row.safety_record) == ("done", None)


def test_a_source_that_is_wholly_gone_comes_back_without_a_safety_backup(living: Living) -> None:
    saved = living.state()
    shutil.rmtree(living.tree)
    living.database.unlink()
    row = living.restore()
    assert row.state == "rolled_back"
    assert "restore without a safety backup" in row.error
    assert not living.tree.exists()
    row = living.restore(options={"without_safety_backup": True})
    assert (row.state, row.error) == ("done", "")
    assert living.state() == saved


def test_of_two_restores_of_one_source_the_second_is_refused(living: Living) -> None:
    first = living.ask(artifacts=["config"])
    RestoreRecord.objects.filter(pk=first.pk).update(state="restoring")
    assert f"{first.name} is restoring config" in refused(living)
    row = living.restore(artifacts=["ledger"])
    assert row.state == "done"


def test_of_two_restores_that_stop_services_the_second_is_refused(living: Living) -> None:
    first = living.ask(artifacts=["config"], options={"stop_services": True})
    RestoreRecord.objects.filter(pk=first.pk).update(state="restoring")
    request = {"artifacts": ["ledger"], "options": {"services": ["toy"]}}
    assert f"{first.name} has stopped services" in refused(living, **request)
    assert living.restore(artifacts=["ledger"]).state == "done"


def test_where_not_even_a_journal_can_be_begun_the_restore_is_refused(
    living: Living, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = journals.Journal.save

    def full(self: journals.Journal) -> None:
        monkeypatch.setattr(journals.Journal, "save", really)
        raise RestoreFailed("The journal cannot be written (No space left on device).", remedy="Free space.")

    row = living.ask()
    monkeypatch.setattr(journals.Journal, "save", full)
    ended = run_restore(row.pk, owner="w")
    assert ended is not None
    assert (ended.state, ended.lease_expires_at) == ("refused", None)
    assert "No space left on device" in ended.error


def test_a_backup_that_reads_the_source_is_in_the_way(living: Living) -> None:
    running = factories.record_of(living.plan, state="running")
    assert f"{running.name} is reading config, ledger" in refused(living)


def test_the_control_planes_own_database_is_refused_online(living: Living) -> None:
    from django.db import connection

    if connection.vendor != "sqlite":
        source = BackupSource.objects.create(name="own", kind="postgres", settings={"connection": "control-plane"})
    else:
        source = BackupSource.objects.create(name="own", kind="sqlite", settings={"path": "control-plane"})
    living.plan.sources.add(source)
    record = factories.run_now(living.plan, only_sources=["own"])
    assert record.state == "committed", record.error
    row = request_restore(record, artifacts=["own"], requested_by="ops", reason="a test", send=False)
    ended = run_restore(row.pk, owner="w")
    assert ended is not None
    assert ended.state == "refused"
    assert "manage.py restore --offline" in ended.error


def test_a_request_wants_a_reason_known_parts_known_options_and_a_committed_set(living: Living) -> None:
    with pytest.raises(Refused, match="replaces live data"):
        living.ask(reason=" ")
    with pytest.raises(CannotRestore, match="no part 'nope'"):
        living.ask(artifacts=["nope"])
    with pytest.raises(Refused, match="no option 'force'"):
        living.ask(options={"force": True})
    with pytest.raises(Refused, match="from 0 to 100"):
        living.ask(options={"minimum_score": 101})
    with pytest.raises(CannotRestore, match="is failed"):
        request_restore(
            factories.record_of(living.plan, state="failed"), artifacts=["config"], requested_by="o", reason="r"
        )
    assert RestoreRecord.objects.count() == 0


# --- what is taken back ----------------------------------------------------------------------------------------


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


# --- the journal, locks and lost workers --------------------------------------------------------------------------


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


# --- the preview --------------------------------------------------------------------------------------------------


def test_the_preview_tells_everything_and_changes_nothing(with_service: Callable[[], Living]) -> None:
    living = with_service()
    before = living.change()
    seen = preview(living.record, living.names, {"stop_services": True})
    assert seen.refusals == ()
    assert [(part.name, part.label, part.group) for part in seen.parts] == [
        ("config", "Files", "configuration"), ("ledger", "SQLite database", "databases"),
    ]  # fmt: skip
    assert seen.needs_bytes == 2 * sum(part.plain_bytes for part in seen.parts) > 2 * 1280000
    assert [(s.name, s.is_running, s.would_stop) for s in seen.services] == [("toy", True, True)]
    assert living.state() == before
    assert living.leftovers() == []
    assert list(journals.folder().iterdir()) == []
    assert RestoreRecord.objects.count() == 0


def test_the_preview_warns_where_the_source_has_moved(living: Living) -> None:
    source = BackupSource.objects.get(name="config")
    source.settings = {**source.settings, "exclude": "x"}
    source.save()
    seen = preview(living.record, ["config"])
    assert any("settings have changed" in finding.detail for finding in seen.parts[0].findings)
    source.delete()
    seen = preview(living.record, ["config"], {"without_safety_backup": True})
    assert any("described no more" in finding.detail for finding in seen.parts[0].findings)
    assert seen.may_begin


def test_a_service_with_an_unusable_command_is_not_offered(living: Living) -> None:
    ControlledService.objects.create(name="odd", stop_command="stop 'it", start_command="start")
    assert [service.name for service in preview(living.record, living.names).services] == ["toy"]
