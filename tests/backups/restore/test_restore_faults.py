"""A worker is killed at every step of a restore, forward and back; the next one brings it to a whole end."""

from __future__ import annotations

import ast
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from backups.engine.steps import RUN_STEPS
from backups.models import BackupRecord, RestoreEvent, RestoreRecord
from backups.restore import journal as journals
from backups.restore.rollback import BACK_KILL_POINTS
from backups.restore.run import resume_journal, run_restore, tend_restores
from backups.restore.steps import KILL_POINTS
from controlplane.kernel import clock, leases
from tests.backups.engine import seeing
from tests.backups.restore.conftest import Living
from tests.kernel.racing import database_url

pytestmark = pytest.mark.faults
OPTIONS = {"stop_services": True}
#: An answer may be slow on a busy machine; where none can be good, one look is enough.
PATIENCE_SECONDS, NO_PATIENCE_SECONDS = 10.0, 0.3


class Workers:
    """Starts workers on one restore; none outlives the test."""

    def __init__(self, living: Living) -> None:
        self.living, self.started = living, []  # type: ignore[var-annotated]
        self.patience_seconds = PATIENCE_SECONDS
        self.proof = living.root / "killed"

    def start(self, row: RestoreRecord, *, kill_at: str = "") -> subprocess.Popen[str]:
        self.proof.unlink(missing_ok=True)
        environ = {
            **os.environ,
            "ZANTARA_DATABASE_URL": database_url(),
            "ZANTARA_SECRET_KEY": settings.SECRET_KEY,
            "ZANTARA_FIELDS_KEY": settings.ZANTARA_FIELDS_KEY,
            "ZANTARA_SERVICES": f"control-plane={self.living.health.url}",
            "ZANTARA_TEST_KILLED": str(self.proof),
            "ZANTARA_LOG_LEVEL": "ERROR",
            "PYTHONWARNINGS": "ignore",
        }
        if kill_at:
            environ["ZANTARA_TEST_KILL_AT"] = kill_at
        argv = [sys.executable, "-m", "tests.backups.restore.worker", str(row.pk), str(self.patience_seconds)]
        self.started.append(subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True))
        return self.started[-1]

    def kill_at(self, row: RestoreRecord, point: str) -> None:
        """Run until it dies there; fails where it does not get there."""
        worker = self.start(row, kill_at=point)
        said, _ = worker.communicate(timeout=120)
        assert (worker.returncode, said) == (-signal.SIGKILL, ""), f"the fault {point} never fired: {said}"
        assert self.proof.read_text() == point.partition("@")[0]

    def end(self) -> None:
        for worker in self.started:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.communicate(timeout=20)


@pytest.fixture
def workers(with_service: Callable[[], Living]) -> Iterator[Workers]:
    found = Workers(with_service())
    yield found
    found.end()


def next_worker(row: RestoreRecord, *, patience_seconds: float = PATIENCE_SECONDS) -> RestoreRecord:
    """The dead worker's lease has run out; nobody unlocks anything."""
    later = clock.now() + timedelta(minutes=2)
    ended = run_restore(row.pk, owner="second", now=later, patience_seconds=patience_seconds)
    assert ended is not None
    return ended


def assert_whole(living: Living, row: RestoreRecord, wanted: dict[str, Any]) -> None:
    """Nothing half done is left: data, services, locks, leftovers."""
    state = living.state()
    assert state["rows"] == wanted["rows"]
    assert {path: state["files"].get(path) for path in wanted["files"]} == wanted["files"]
    assert living.service_runs()
    assert living.leftovers() == []
    assert list(journals.unfinished()) == []
    assert list(journals.folder().glob("*.lock")) == []
    row.refresh_from_db()
    assert (row.lease_owner, row.lease_expires_at) == ("", None)
    assert row.finished_at is not None


@pytest.mark.parametrize("point", [p for p in KILL_POINTS if p != "restore_ended"])
def test_a_worker_killed_on_the_way_forward_is_followed_by_one_that_finishes(workers: Workers, point: str) -> None:
    living = workers.living
    saved = living.state()
    living.change()
    row = living.ask(options=OPTIONS)
    workers.kill_at(row, point)
    ended = next_worker(row)
    assert (ended.state, ended.error) == ("done", "")
    assert_whole(living, ended, saved)
    assert {step["detail"] for step in ended.steps if step["status"] != "done"} <= {"its worker was lost"}
    safety = BackupRecord.objects.filter(trigger="safety")
    assert [record.state for record in safety] == ["committed"]


@pytest.mark.parametrize("point", RUN_STEPS)
def test_a_worker_killed_in_the_safety_backup_is_followed_by_one_that_finishes(workers: Workers, point: str) -> None:
    living = workers.living
    saved, changed = living.state(), living.change()
    row = living.ask(options=OPTIONS)
    workers.kill_at(row, point)
    assert living.state() == changed
    ended = next_worker(row)
    assert (ended.state, ended.error) == ("done", "")
    assert_whole(living, ended, saved)
    assert ended.safety_record is not None
    assert ended.safety_record.state == "committed"


@pytest.mark.parametrize("point", ["restore_ended", *BACK_KILL_POINTS])
def test_a_worker_killed_on_the_way_back_is_followed_by_one_that_gets_there(workers: Workers, point: str) -> None:
    living = workers.living
    living.unwell_when_restored()
    workers.patience_seconds = NO_PATIENCE_SECONDS
    changed = living.change()
    row = living.ask(options=OPTIONS)
    workers.kill_at(row, point)
    ended = next_worker(row, patience_seconds=NO_PATIENCE_SECONDS)
    assert ended.state == "rolled_back", ended.error
    assert "The health score after the start is" in ended.error
    assert_whole(living, ended, changed)
    assert living.state() == changed


def test_a_restore_that_was_done_when_its_worker_died_is_done(workers: Workers) -> None:
    living = workers.living
    saved = living.state()
    living.change()
    row = living.ask(options=OPTIONS)
    workers.kill_at(row, "restore_ended")
    row.refresh_from_db()
    assert row.state == "checking"
    assert next_worker(row).state == "done"
    assert_whole(living, row, saved)


@pytest.mark.parametrize("step", ["prepare", "swap"])
def test_a_step_that_takes_two_workers_down_is_not_tried_again_and_the_restore_goes_back(
    workers: Workers, step: str
) -> None:
    living = workers.living
    changed = living.change()
    row = living.ask(options=OPTIONS)
    workers.kill_at(row, f"restore_{step}")
    RestoreRecord.objects.filter(pk=row.pk).update(lease_expires_at=clock.now())
    workers.kill_at(row, f"restore_{step}_done")
    ended = next_worker(row)
    assert (ended.state, f"The step {step} lost its worker 2 times." in ended.error) == ("rolled_back", True)
    assert_whole(living, ended, changed)
    assert living.state() == changed


def test_every_place_where_a_worker_may_be_killed_is_one_at_which_a_test_kills_it() -> None:
    """Literal names are compared; the computed ones are those of the steps, of which the tuples are made."""
    known, literal, computed = {*KILL_POINTS, *BACK_KILL_POINTS}, set(), set()
    for path in set(Path("backups/restore").glob("*.py")) - {Path("backups/restore/offline.py")}:  # has its own
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "step_reached":
                (argument,) = node.args
                if isinstance(argument, ast.Constant):
                    literal.add(argument.value)
                else:
                    computed.add(ast.unparse(argument))
    assert literal <= known
    assert {name for name in known - literal if "_back_" in name} == {
        f"restore_back_{step}{end}" for step in ("stop_again", "undo", "discard_undone", "restart_services")
        for end in ("", "_done")
    }  # fmt: skip
    assert computed == {
        "f'restore_{step.name}'", "f'restore_{step.name}_done'",
        "f'restore_back_{step.name}'", "f'restore_back_{step.name}_done'",
    }  # fmt: skip


def test_nobody_works_beside_a_worker_that_still_holds_the_journal(workers: Workers) -> None:
    before = workers.living.change()
    row = workers.living.ask(options=OPTIONS)
    with journals.held(row.name) as ours:
        assert ours
        assert workers.start(row).communicate(timeout=60)[0] == "taken"
    row.refresh_from_db()
    assert (row.state, row.lease_token) == ("queued", 0)
    assert workers.living.state() == before


def test_a_worker_that_is_only_paused_is_not_overtaken_and_goes_on_when_it_wakes(workers: Workers) -> None:
    living = workers.living
    saved = living.state()
    living.change()
    row = living.ask(options=OPTIONS)
    worker = workers.start(row, kill_at="restore_swap_noted:STOP")
    seeing.wait_until_stopped(worker.pid)
    later = clock.now() + timedelta(minutes=5)
    assert run_restore(row.pk, owner="second", now=later) is None
    worker.send_signal(signal.SIGCONT)
    assert worker.communicate(timeout=60)[0] == "done"
    assert_whole(living, row, saved)


def test_a_worker_that_lost_its_lease_to_another_machine_writes_nothing_more(workers: Workers) -> None:
    living = workers.living
    saved, changed = living.state(), living.change()
    row = living.ask(options=OPTIONS)
    worker = workers.start(row, kill_at="restore_prepared:STOP")
    seeing.wait_until_stopped(worker.pid)
    taken = leases.acquire(
        RestoreRecord, row.pk, owner="elsewhere", ttl_seconds=60, now=clock.now() + timedelta(minutes=5)
    )
    assert taken is not None
    events = RestoreEvent.objects.count()
    worker.send_signal(signal.SIGCONT)
    worker.communicate(timeout=60)
    assert (living.state(), RestoreEvent.objects.count()) == (changed, events)
    taken.release()
    assert next_worker(row).state == "done"
    assert_whole(living, row, saved)


def test_the_journal_alone_brings_a_restore_to_its_end_when_the_row_is_gone(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups.restore import run

    living = workers.living
    saved = living.state()
    living.change()
    row = living.ask(options=OPTIONS)
    workers.kill_at(row, "restore_swapped")
    RestoreEvent.objects.filter(subject=row)._raw_delete("default")
    RestoreRecord.objects.filter(pk=row.pk)._raw_delete("default")
    sent: list[str] = []
    monkeypatch.setattr(run, "_send_resume", lambda name: sent.append(name) or True)
    assert tend_restores() == 1
    assert sent == [row.name]
    journal = resume_journal(row.name, owner="second")
    assert journal is not None
    assert journal.state == "done"
    state = living.state()
    assert {path: state["files"].get(path) for path in saved["files"]} == saved["files"]
    assert (state["rows"], living.service_runs(), living.leftovers()) == (saved["rows"], True, [])
    assert tend_restores() == 0


def test_a_full_disk_in_the_middle_of_a_restore_ends_in_the_old_state(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal cannot be written any more from the swap on, not even on the way back."""
    living = workers.living
    before, fired = living.change(), []
    really = os.fsync

    def full(descriptor: int) -> None:
        if (path := Path(f"/proc/self/fd/{descriptor}").resolve()).name.startswith(".zantara-restore-"):
            if any(living.tree.glob("app.env")) and (living.tree / "app.env").read_bytes() == b"MODE=good\n":
                fired.append(path)
            if fired:
                raise OSError(28, "No space left on device")
        really(descriptor)

    row = living.ask(options=OPTIONS)
    monkeypatch.setattr(os, "fsync", full)
    ended = run_restore(row.pk, owner="first", patience_seconds=NO_PATIENCE_SECONDS)
    monkeypatch.undo()
    assert fired
    assert ended is not None
    assert ended.state == "rolled_back"
    assert "cannot be written (No space left on device)" in ended.error
    assert living.state() == before
    assert living.service_runs()


def test_a_database_that_dies_in_the_middle_leaves_the_old_data_live_and_the_services_running(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError
    from django.db.backends.utils import CursorWrapper

    from backups.engine import fence

    living = workers.living
    before, fired = living.change(), []
    really = CursorWrapper.execute

    def execute(self: CursorWrapper, *given: Any, **more: Any) -> Any:
        if (living.tree / "app.env").read_bytes() == b"MODE=good\n" or fired:
            fired.append(given)
            raise OperationalError("the server is gone")
        return really(self, *given, **more)

    for name, value in {"LEASE_SECONDS": 10.0, "HEARTBEAT_SECONDS": 0.2, "_BELIEVED_SECONDS": 5.0}.items():
        monkeypatch.setattr(fence, name, value)
    row = living.ask(options=OPTIONS)
    with monkeypatch.context() as dead:
        dead.setattr(CursorWrapper, "execute", execute)
        run_restore(row.pk, owner="first", patience_seconds=NO_PATIENCE_SECONDS)
    assert fired
    journal = journals.load(row.name)
    assert journal is not None
    # told by the heartbeat or by the health check, whichever comes first
    voices = ("does not answer any more", "database failed: the database does not answer")
    assert (journal.state, any(voice in journal.failure for voice in voices)) == ("rolled_back", True)
    assert (living.state(), living.service_runs(), living.leftovers()) == (before, True, [])
    row.refresh_from_db()
    assert row.state not in ("done", "rolled_back")  # it could not be told
    ended = next_worker(row)
    assert (ended.state, ended.error) == ("rolled_back", journal.failure)


@pytest.mark.parametrize("seed", range(6))
def test_random_kills_leave_a_whole_system(workers: Workers, seed: int) -> None:
    """Killed at any moment, several times; in the end all is restored or all is as before, and the service runs."""
    living, dice, kills = workers.living, random.Random(seed), 0
    saved, changed = living.state(), living.change()
    row = living.ask(options=OPTIONS)
    while kills < 4:
        worker = workers.start(row)
        try:
            worker.communicate(timeout=dice.uniform(1.0, 3.0))
            break
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.communicate()
            kills += 1
            RestoreRecord.objects.filter(pk=row.pk).update(lease_expires_at=None)
    row.refresh_from_db()
    ended = row if row.finished_at else next_worker(row)
    assert ended.state in ("done", "rolled_back"), ended.error
    assert_whole(living, ended, saved if ended.state == "done" else changed)
