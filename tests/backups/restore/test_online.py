"""Restores of a running system that go well, and what a preview says of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backups.errors import CannotRestore
from backups.models import BackupSource, ControlledService, RestoreRecord
from backups.restore import journal as journals
from backups.restore.preview import preview
from backups.restore.requests import request_restore
from backups.restore.run import run_restore
from controlplane.kernel import leases
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.restore.conftest import Living
from tests.backups.restore.watched import assert_restored, states, steps


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

    def not_come_to(lease: leases.Lease) -> None:
        calls.append(lease)

    monkeypatch.setattr(leases.Lease, "release", not_come_to)
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
