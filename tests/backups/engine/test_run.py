"""One run, from the request to the committed set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backups import keys
from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.manifest import load_set
from backups.models import BackupEvent, BackupRecord
from backups.storage import open_target
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from tests.backups import factories
from tests.backups.admin.rows import make_restore
from tests.backups.engine import seeing, toys
from tests.backups.engine.plans import ended, looking, toy_plan

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("toy_kind")]


def test_a_run_commits_a_signed_set_that_opens_with_the_recovery_key(tmp_path: Path) -> None:
    record = factories.committed_set(tmp_path, contents={"a.txt": b"A" * 5000, "b/c": b"C"}, requested_by="ada")

    assert seeing.restored_files(record) == {"a.txt": b"A" * 5000, "b/c": b"C"}
    manifest = load_set(open_target(record.target), record.prefix)
    assert (manifest.name, manifest.trigger, manifest.requested_by) == (record.name, "manual", "ada")
    assert manifest.recipients == keys.recipients()
    assert manifest.committed_at == record.committed_at
    artifact = record.artifacts.get()
    (entry,) = manifest.artifacts
    assert (artifact.plain_bytes, artifact.plain_sha256) == (entry.plain_bytes, entry.plain_sha256)
    assert record.stored_bytes == sum(part["size"] for part in artifact.parts)
    assert (record.state, record.attempt, record.progress, record.prefix.split("/")[-1]) == (
        "committed", 1, {}, str(record.set_id),
    )  # fmt: skip
    assert record.prefix == f"sets/{record.plan_name}/{record.started_at:%Y/%m}/{record.set_id}"
    moves = list(BackupEvent.objects.filter(subject=record).values_list("from_state", "to_state"))
    assert moves == [("queued", "queued"), ("queued", "running"), ("running", "committed")]


def test_ids_count_the_runs_of_a_day_in_the_zone_of_the_plan(tmp_path: Path) -> None:
    from backups import beat

    plan = factories.files_plan(tmp_path)
    beat.write_schedule(plan, beat.Times("0 2 * * *", "Asia/Tokyo"))
    late = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)  # past midnight in Tokyo
    names = []
    for _ in range(3):
        record = request_backup(plan, trigger="safety", now=late)
        assert record is not None
        names.append(record.name)
    assert names == ["zantara-backup-2026-11-24", "zantara-backup-2026-11-24-2", "zantara-backup-2026-11-24-3"]


def test_each_manifest_names_the_one_before_it(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    first = factories.committed_set(tmp_path, plan=plan)
    second = factories.committed_set(tmp_path, plan=plan)
    manifest = load_set(open_target(second.target), second.prefix)
    assert manifest.previous_manifest_sha256 == first.manifest_sha256 != ""


def test_without_compression_the_set_says_so(tmp_path: Path) -> None:
    record = factories.committed_set(tmp_path, plan=factories.files_plan(tmp_path, compress=False))
    artifact = record.artifacts.get()
    assert (artifact.compressed, artifact.compressed_bytes) == (False, artifact.plain_bytes)
    assert seeing.restored_files(record)["a.txt"] == b"hello\n"


def test_warnings_of_sources_are_in_the_record(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, {"warn": "one file was busy"})
    assert factories.run_now(plan).warnings == ["toy-0: one file was busy"]


def test_progress_is_told_while_it_runs_and_cleared_at_the_end(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, {"chunks": 60, "pause": 0.05})
    seen: list[dict[str, Any]] = []
    record = request_backup(plan, trigger="manual")
    assert record is not None
    with looking(lambda: seen.append(BackupRecord.objects.get(pk=record.pk).progress)):
        run_backup(record.pk, owner="test")
    told = [one for one in seen if one.get("source") == "toy-0" and one["plain_bytes"]]
    assert told
    assert told[-1].keys() >= {
        "source", "position", "of", "plain_bytes", "expected_bytes", "rate_bytes_per_second", "updated_at",
    }  # fmt: skip
    assert (told[-1]["position"], told[-1]["of"], told[-1]["expected_bytes"]) == (2, 2, 60 * toys.CHUNK)
    assert told[0]["plain_bytes"] < told[-1]["plain_bytes"] <= 60 * toys.CHUNK
    assert told[-1]["rate_bytes_per_second"] > 0
    assert BackupRecord.objects.get(pk=record.pk).progress == {}


def test_a_scheduled_time_has_one_run(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    first = request_backup(plan, trigger="schedule", scheduled_for=factories.NOW)
    assert first is not None
    assert request_backup(plan, trigger="missed", scheduled_for=factories.NOW) is None
    assert BackupRecord.objects.filter(plan=plan).count() == 1


def test_a_second_run_by_hand_is_refused_while_one_waits_or_runs(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    first = request_backup(plan, trigger="manual")
    assert first is not None
    with pytest.raises(Refused, match=first.name):
        request_backup(plan, trigger="manual")
    safety = request_backup(plan, trigger="safety")
    assert safety is not None, "a restore does not wait for it"


def test_scheduled_runs_do_not_pile_up_behind_one_that_waits(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    assert request_backup(plan, trigger="schedule", scheduled_for=factories.NOW) is not None
    assert request_backup(plan, trigger="schedule", scheduled_for=factories.NOW + timedelta(hours=1)) is None


def test_unknown_sources_and_plans_without_any_are_refused(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    with pytest.raises(Refused, match="no enabled source named nonsense"):
        request_backup(plan, trigger="manual", only_sources=["nonsense"])
    source = plan.sources.get()
    source.enabled = False
    source.save()
    with pytest.raises(Refused, match="no enabled source"):
        request_backup(plan, trigger="manual")
    assert not BackupRecord.objects.exists()


def test_a_run_of_some_sources_holds_only_those(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, {"chunks": 1})
    record = factories.run_now(plan, only_sources=["toy-0"])
    assert [artifact.name for artifact in record.artifacts.all()] == ["toy-0"]
    assert record.only_sources == ["toy-0"]


def test_runs_of_one_plan_take_turns(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    running = factories.record_of(plan, state="running", lease_expires_at=clock.now() + timedelta(minutes=1))
    record = request_backup(plan, trigger="schedule", scheduled_for=factories.NOW)
    assert record is not None
    assert run_backup(record.pk, owner="test") is None
    assert ended(record)[0] == "queued"
    running.delete()
    assert run_backup(record.pk, owner="test") is not None
    assert ended(record)[0] == "committed"


def test_a_run_waits_for_a_restore_of_its_plan_but_not_for_one_whose_worker_is_gone(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    earlier = factories.run_now(plan)
    assert earlier.state == "committed"
    restore = make_restore(earlier, state="swapping", lease_expires_at=clock.now() + timedelta(minutes=1))
    record = request_backup(plan, trigger="schedule", scheduled_for=factories.NOW)
    assert record is not None
    assert run_backup(record.pk, owner="test") is None
    assert ended(record)[0] == "queued"
    safety = request_backup(plan, trigger="safety")
    assert safety is not None
    assert run_backup(safety.pk, owner="test") is not None, "the restore's own backup does not wait for the restore"
    restore.lease_expires_at = clock.now() - timedelta(seconds=1)
    restore.save()
    assert run_backup(record.pk, owner="test") is not None
    assert ended(record)[0] == "committed"
