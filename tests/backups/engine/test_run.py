"""One run, from the request to the committed set, and each way in which it may end otherwise."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backups import keys
from backups.engine import commit, fence, progress
from backups.engine.capture import scratch_root
from backups.engine.recover import tend_backups
from backups.engine.requests import request_backup, request_cancel
from backups.engine.run import run_backup
from backups.errors import StorageUnavailable
from backups.manifest import load_set
from backups.models import Artifact, BackupEvent, BackupPlan, BackupRecord
from backups.sources.base import kinds
from backups.storage import open_target
from backups.storage.local import LocalStorage
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.admin.rows import make_restore
from tests.backups.engine import seeing, toys

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def toy_kind() -> Iterator[None]:
    kinds.add("toy", toys.ToySource)
    yield
    kinds._entries.pop("toy")


def toy_plan(tmp_path: Path, *toy_settings: Mapping[str, Any], **columns: Any) -> BackupPlan:
    keys.ensure_keys()
    sources = [
        factories.files_source(tmp_path / "source", name="good"),
        *(
            factories.BackupSource.objects.create(name=f"toy-{number}", kind="toy", settings=dict(settings))
            for number, settings in enumerate(toy_settings)
        ),
    ]
    return factories.plan_of(factories.local_target(tmp_path / "store"), sources, **columns)


def ended(record: BackupRecord) -> tuple[str, str]:
    record.refresh_from_db()
    assert (record.lease_owner, record.lease_expires_at) == ("", None), "nobody may have to unlock it"
    return record.state, record.error


# --- a run that succeeds ---------------------------------------------------------------------------------------


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


class looking(AbstractContextManager[None]):
    """Calls something ten times a second, on a thread of its own, while the block runs."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look, self._over = look, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        from django.db import connection

        while not self._over.wait(0.1):
            self._look()
        connection.close()


# --- requests --------------------------------------------------------------------------------------------------


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


# --- failures --------------------------------------------------------------------------------------------------


def assert_it_left_nothing(record: BackupRecord) -> None:
    assert seeing.left_over(record.target) == []
    assert record.set_id is not None
    assert not (scratch_root() / str(record.set_id)).exists()
    assert not Artifact.objects.filter(record=record).exists()
    assert record.prefix == ""


def test_one_failing_source_fails_the_set_after_the_others_were_tried(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, {"exit": 1}, {"chunks": 1, "mark": str(tmp_path / "third")}, {"exit": 2})
    record = factories.run_now(plan)
    state, error = ended(record)
    assert state == "failed"
    assert "toy-0: The toy exited with 1" in error
    assert "toy-2: The toy exited with 2" in error
    assert "good" not in error
    assert (tmp_path / "third").exists(), "a source after the failing one was tried as well"
    assert_it_left_nothing(record)
    assert Message.objects.get(kind="backup_failed").key == f"backup_failed:{record.name}"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"chunks": 5, "exit": 1}, "exited with 1", id="fails after output"),
        pytest.param({"chunks": 0}, "not a single byte", id="prints nothing"),
        pytest.param({"chunks": 2, "bug": True}, "ZeroDivisionError", id="breaks"),
    ],
)  # fmt: skip
def test_a_source_that_fails_leaves_no_set(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    earlier = factories.committed_set(tmp_path / "earlier")
    record = factories.run_now(toy_plan(tmp_path, settings))
    state, error = ended(record)
    assert state == "failed"
    assert said in error
    assert_it_left_nothing(record)
    assert seeing.restored_files(earlier)


def test_a_producer_that_hangs_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    plan = toy_plan(tmp_path, {"hang": str(pids)})
    BackupPlan.objects.filter(pk=plan.pk).update(stall_seconds=1)
    began = time.monotonic()
    record = factories.run_now(plan)
    state, error = ended(record)
    assert (state, time.monotonic() - began < 20) == ("failed", True)
    assert "sent nothing for" in error
    members = [int(pid) for pid in pids.read_text().split()]
    assert len(members) == 2, "the producer and its child, both of which hang"
    for pid in members:
        assert not is_alive(pid)
    assert_it_left_nothing(record)


def is_alive(pid: int) -> bool:
    for _ in range(40):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_a_producer_that_never_ends_is_killed_when_the_run_is_cancelled(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    plan = toy_plan(tmp_path, {"hang": str(pids)})
    record = request_backup(plan, trigger="manual")
    assert record is not None
    asked = []

    def cancel_once() -> None:
        if pids.exists() and len(pids.read_text().split()) == 2 and not asked:
            asked.append(request_cancel(BackupRecord.objects.get(pk=record.pk), actor="ada"))

    with looking(cancel_once):
        run_backup(record.pk, owner="test")
    assert asked == ["requested"]
    assert ended(record) == ("cancelled", "")
    assert record.cancel_requested_by == "ada"
    assert not any(is_alive(int(pid)) for pid in pids.read_text().split())
    assert_it_left_nothing(record)
    assert not Message.objects.filter(kind="backup_failed").exists()


def test_a_source_that_takes_for_ever_to_open_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(progress, "SLOW_SECONDS", 1.0)
    plan = toy_plan(tmp_path, {"open": True})
    BackupPlan.objects.filter(pk=plan.pk).update(stall_seconds=1)
    record = factories.run_now(plan)
    state, error = ended(record)
    assert (state, "toy-0 sent nothing for" in error) == ("failed", True)
    assert_it_left_nothing(record)


def test_a_run_is_cancelled_while_a_source_is_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "HEARTBEAT_SECONDS", 0.2)
    record = request_backup(toy_plan(tmp_path, {"open": True}), trigger="manual")
    assert record is not None
    asked = []

    def cancel_once() -> None:
        row = BackupRecord.objects.get(pk=record.pk)
        if row.progress.get("source") == "toy-0" and not asked:
            asked.append(request_cancel(row, actor="ada"))

    with looking(cancel_once):
        run_backup(record.pk, owner="test")
    assert asked == ["requested"]
    assert ended(record) == ("cancelled", "")
    assert_it_left_nothing(record)


def test_the_time_that_opening_took_is_not_held_against_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toys.ToyCapture, "__enter__", lambda self: time.sleep(1.5) or self)
    plan = toy_plan(tmp_path, {"chunks": 2})
    BackupPlan.objects.filter(pk=plan.pk).update(stall_seconds=1)
    assert factories.run_now(plan).state == "committed"


def test_a_run_that_waits_is_cancelled_at_once_and_a_dead_one_not_at_all(tmp_path: Path) -> None:
    record = request_backup(factories.files_plan(tmp_path), trigger="manual")
    assert record is not None
    assert request_cancel(record, actor="ada") == "cancelled"
    assert ended(record)[0] == "cancelled"
    assert run_backup(record.pk, owner="late") is None
    with pytest.raises(Refused, match="nothing to cancel"):
        request_cancel(record, actor="ada")


def test_a_source_that_does_not_answer_is_tried_three_times(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, {"away": True})
    record = request_backup(plan, trigger="manual")
    assert record is not None
    now = clock.now()
    for attempt in (1, 2):
        run_backup(record.pk, owner="test", now=now)
        state, error = ended(record)
        assert (state, record.attempt, "did not answer" in error) == ("queued", attempt, True)
        assert run_backup(record.pk, owner="test", now=now) is None, "not before its time"
        now = record.due_at
        assert seeing.left_over(record.target) == []
    assert not Message.objects.exists(), "not told before it is over"
    run_backup(record.pk, owner="test", now=now)
    assert ended(record)[0] == "failed"
    assert Message.objects.filter(kind="backup_failed").count() == 1


def test_one_message_tells_of_a_run_that_succeeded_only_later(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, {"away": str(tmp_path / "away")})
    (tmp_path / "away").touch()
    record = factories.run_now(plan)
    assert record.state == "queued"
    (tmp_path / "away").unlink()
    run_backup(record.pk, owner="test", now=record.due_at)
    assert ended(record)[0] == "committed"
    message = Message.objects.get(kind="backup_failed")
    assert (message.key, "attempt 2" in message.title) == (f"backup_failed:{record.name}", True)


def test_a_plan_that_was_deleted_fails_its_waiting_runs(tmp_path: Path) -> None:
    plan = factories.files_plan(tmp_path)
    record = request_backup(plan, trigger="manual")
    assert record is not None
    plan.delete()
    run_backup(record.pk, owner="test")
    state, error = ended(record)
    assert (state, "was deleted" in error) == ("failed", True)


# --- the store -------------------------------------------------------------------------------------------------


def test_a_full_disk_fails_the_run_and_leaves_the_earlier_sets(tmp_path: Path) -> None:
    small = small_disk()
    keys.ensure_keys()
    target = factories.local_target(small / f"store-{factories.short()}")
    plan = factories.plan_of(target, [factories.files_source(tmp_path / "source")])
    try:
        earlier = factories.committed_set(tmp_path, plan=plan)
        (tmp_path / "source" / "big").write_bytes(os.urandom(24 * 2**20))
        record = factories.run_now(plan)
        state, error = ended(record)
        assert state == "failed"
        assert "space" in error.lower()
        assert_it_left_nothing(record)
        assert sorted(seeing.restored_files(earlier)) == ["a.txt", "sub/b.bin"]
    finally:
        import shutil

        shutil.rmtree(target.path)


def small_disk() -> Path:
    """A file system of 16 MiB; a test that cannot have one is left out."""
    import subprocess

    from tests import needs

    where = Path(os.environ["ZANTARA_TEST_ROOT"]) / "small-disk"
    where.mkdir(exist_ok=True)
    if where.is_mount():
        return where
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(where)], check=False, capture_output=True
    )
    if done.returncode:
        needs.leave_out("mounting a small file system is not allowed here")
    import atexit

    atexit.register(subprocess.run, ["umount", "-l", str(where)], capture_output=True)
    return where


def test_a_store_that_breaks_off_at_the_commit_after_taking_it_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, broken = LocalStorage.put, []

    def put_and_break(self: LocalStorage, key: str, body: bytes) -> None:
        put(self, key, body)
        if key.endswith("/COMMIT"):
            broken.append(key)
            raise StorageUnavailable("The connection was reset.")

    monkeypatch.setattr(LocalStorage, "put", put_and_break)
    record = factories.run_now(factories.files_plan(tmp_path))
    assert (ended(record)[0], len(broken)) == ("committed", 1)
    assert seeing.restored_files(record)


def test_a_commit_of_which_nothing_is_known_is_settled_by_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStorage.put
    away = StorageUnavailable("The connection was reset.")

    def put_and_vanish(self: LocalStorage, key: str, body: bytes) -> None:
        put(self, key, body)
        if key.endswith("/COMMIT"):
            monkeypatch.setattr(LocalStorage, "stat", vanish)
            raise away

    def vanish(*_: Any) -> None:
        raise away

    stat = LocalStorage.stat
    monkeypatch.setattr(LocalStorage, "put", put_and_vanish)
    record = factories.run_now(factories.files_plan(tmp_path))
    assert record.state == "running"
    monkeypatch.setattr(LocalStorage, "put", put)
    monkeypatch.setattr(LocalStorage, "stat", stat)
    tended = tend_backups(clock.now() + timedelta(seconds=61))
    assert (tended.committed, ended(record)[0]) == (1, "committed")
    assert seeing.restored_files(record)


def test_a_store_that_is_away_is_tried_again_and_what_it_kept_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStorage.put

    def refuse(self: LocalStorage, key: str, body: bytes) -> None:
        raise StorageUnavailable("The server said 503.")

    monkeypatch.setattr(LocalStorage, "put", refuse)
    record = factories.run_now(factories.files_plan(tmp_path))
    state, error = ended(record)
    assert (state, record.attempt, "503" in error) == ("queued", 1, True)
    assert seeing.left_over(record.target) == []
    monkeypatch.setattr(LocalStorage, "put", put)
    run_backup(record.pk, owner="test", now=record.due_at)
    assert ended(record)[0] == "committed"


def test_what_could_not_be_taken_back_is_taken_back_by_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = LocalStorage.delete
    monkeypatch.setattr(LocalStorage, "delete", lambda self, keys: dict.fromkeys(keys, "read-only"))
    record = factories.run_now(toy_plan(tmp_path, {"exit": 1}))
    assert (ended(record)[0], record.prefix != "") == ("failed", True)
    assert seeing.left_over(record.target) != []
    assert tend_backups().cleaned == 0
    assert ended(record)[0] == "failed"
    monkeypatch.setattr(LocalStorage, "delete", delete)
    assert tend_backups().cleaned == 1
    record.refresh_from_db()
    assert_it_left_nothing(record)


# --- what a defect must not do ---------------------------------------------------------------------------------


def test_a_defect_of_ours_fails_the_run_and_does_not_leave_it_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: Any) -> None:
        raise KeyError("unexpected")

    monkeypatch.setattr("backups.engine.run.make_manifest", break_down)
    record = factories.run_now(factories.files_plan(tmp_path))
    state, error = ended(record)
    assert (state, "KeyError" in error) == ("failed", True)
    assert_it_left_nothing(record)


def test_secrets_in_an_error_are_masked(tmp_path: Path) -> None:
    record = factories.run_now(toy_plan(tmp_path, {"say": "postgres://zantara:hunter2@db/zantara refused"}))
    assert "hunter2" not in record.error
    assert "hunter2" not in json.dumps(list(BackupEvent.objects.values_list("reason", flat=True)))
    assert "hunter2" not in Message.objects.get().body


def test_attempts_are_bounded() -> None:
    assert commit.MOST_ATTEMPTS == 3
    assert [wait.total_seconds() for wait in commit.BACKOFF] == [60, 300]
