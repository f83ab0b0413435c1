"""Each way in which a run ends otherwise: sources that fail or hang, cancellations, defects."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backups.engine import commit, fence, progress
from backups.engine.requests import request_backup, request_cancel
from backups.engine.run import run_backup
from backups.models import BackupEvent, BackupPlan, BackupRecord
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.engine import seeing, toys
from tests.backups.engine.plans import assert_it_left_nothing, ended, looking, toy_plan

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("toy_kind")]


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
    assert (state, time.monotonic() - began < 60) == ("failed", True)
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
    later = 0

    def enter(self: toys.ToyCapture) -> toys.ToyCapture:
        nonlocal later
        later = 100
        return self

    its_clock = SimpleNamespace(now=clock.now, monotonic=lambda: clock.monotonic() + later)
    monkeypatch.setattr(progress, "clock", its_clock)
    monkeypatch.setattr(toys.ToyCapture, "__enter__", enter)
    plan = toy_plan(tmp_path, {"chunks": 2, "pause": 0.3})
    BackupPlan.objects.filter(pk=plan.pk).update(stall_seconds=60)
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
