"""Restores that are refused before anything is touched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from backups.errors import CannotRestore, RestoreFailed
from backups.models import BackupRecord, BackupSource, RestoreRecord
from backups.restore import journal as journals
from backups.restore.requests import request_restore
from backups.restore.run import run_restore
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.restore.conftest import Living
from tests.backups.restore.watched import assert_restored


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
