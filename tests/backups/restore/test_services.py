"""Stopping and starting what a restore must not be written into by."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backups import services
from backups.models import ControlledService
from backups.services import ChildControl, CommandControl, controls_of_stack, from_journal, stack_is_up, to_journal
from controlplane.embedded import processes
from controlplane.kernel.errors import ConfigurationError, Refused, Unavailable
from controlplane.kernel.ports import all_service_controls, service_controls
from tests.backups.restore.toy_service import pid_of
from tests.stack import Stack, wait_for

TOY = str(Path(__file__).with_name("toy_service.py"))
SLEEP = "import time; time.sleep(600)"


def toy(folder: Path, **changes: Any) -> CommandControl:
    folder.mkdir(exist_ok=True)
    argv = {f"{verb}_argv": (sys.executable, TOY, verb, str(folder)) for verb in ("start", "stop", "status")}
    return CommandControl(**{"name": "toy", "label": "Toy", "timeout_seconds": 10, **argv, **changes})


def test_a_service_is_stopped_and_started_once_however_often_it_is_asked(tmp_path: Path) -> None:
    control = toy(tmp_path / "toy")
    assert control.is_running() is False
    control.stop()
    control.start()
    pid = pid_of(tmp_path / "toy")
    control.start()
    assert (control.is_running(), pid_of(tmp_path / "toy")) == (True, pid)
    control.stop()
    control.stop()
    assert (control.is_running(), pid_of(tmp_path / "toy")) == (False, None)
    assert (tmp_path / "toy" / "log").read_text().split() == ["start", "stop"]


def test_without_a_status_command_nobody_knows_and_both_commands_are_run(tmp_path: Path) -> None:
    control = toy(tmp_path / "toy", status_argv=())
    assert control.is_running() is None
    control.stop()
    control.start()
    control.stop()
    assert (tmp_path / "toy" / "log").read_text().split() == ["stop", "start", "stop"]


def test_a_command_that_fails_says_so_without_secrets(tmp_path: Path) -> None:
    control = toy(tmp_path / "toy")
    (tmp_path / "toy" / "broken-start").touch()
    with pytest.raises(Unavailable) as caught:
        control.start()
    assert "The start command of Toy ended with exit code 7: cannot start:" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "pids"
    code = (
        "import os, pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"pathlib.Path({str(started)!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)"
    )
    control = toy(tmp_path / "toy", start_argv=(sys.executable, "-c", code), timeout_seconds=6)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="did not end in time and was killed"):
        control.start()
    assert time.monotonic() - begun < 30
    pids = [int(pid) for pid in started.read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: all((found := processes.find(pid)) is None or found.is_zombie for pid in pids), 5, "their end")


def test_a_service_that_does_not_do_what_its_command_promised_is_told_of(tmp_path: Path) -> None:
    control = toy(tmp_path / "toy", start_argv=("/bin/true",), timeout_seconds=3)
    with pytest.raises(Unavailable, match="Toy did not start"):
        control.start()
    with pytest.raises(Unavailable, match="cannot be run"):
        toy(tmp_path / "toy", start_argv=("/no/such/program",)).start()


def test_commands_are_run_as_they_are_and_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    code = f"import json, os, sys; open({str(seen)!r}, 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))"
    for name in ("ZANTARA_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "ZANTARA_DATABASE_URL", "ZANTARA_DRILL_IDENTITY_FILE"):
        monkeypatch.setenv(name, "hunter2")
    argv = services.split_command(
        f"{sys.executable} -c PLACEHOLDER '$HOME; touch {tmp_path}/x' \"a b\"", "start command"
    )
    argv = tuple(code if word == "PLACEHOLDER" else word for word in argv)
    toy(tmp_path / "toy", start_argv=argv, status_argv=()).start()
    words, environ = json.loads(seen.read_text())
    assert words == [f"$HOME; touch {tmp_path}/x", "a b"]
    assert not (tmp_path / "x").exists()
    assert "hunter2" not in environ.values()
    assert "PATH" in environ


def test_a_command_line_that_cannot_be_split_is_refused() -> None:
    for text in ("", "  ", "stop 'it"):
        with pytest.raises(Refused):
            services.split_command(text, "stop command")


def test_rows_are_services_and_a_journal_holds_all_that_starts_one_again(db: None, tmp_path: Path) -> None:
    ControlledService(name="web", stop_command="systemctl stop web", start_command="systemctl start web").save()
    control = all_service_controls()["web"]
    assert isinstance(control, CommandControl)
    assert (control.stop_argv, control.status_argv) == (("systemctl", "stop", "web"), ())
    again = from_journal(json.loads(json.dumps(to_journal(control))))
    assert again == control
    child = ChildControl("sample", tmp_path)
    assert from_journal(json.loads(json.dumps(to_journal(child)))) == child


def test_a_service_that_another_room_brings_is_found_by_its_name(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        name = label = "theirs"

    theirs: Any = Theirs()
    written = to_journal(theirs)
    with pytest.raises(ConfigurationError, match="Nothing here can start or stop theirs"):
        from_journal(written)
    monkeypatch.setattr(service_controls, "_entries", {"theirs": lambda: [theirs]})
    assert from_journal(written) is theirs


# --- children of the stack ------------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A real supervisor with toy children, and the lock that says that a stack runs."""
    started: list[Stack] = []

    def start(**children: str) -> Stack:
        children.setdefault("bootstrap", "print('done')")
        command = (sys.executable, "-m", "tests.embedded.toy_stack", str(tmp_path), json.dumps(children))
        started.append(Stack(tmp_path, command=command, environ={"PYTHONPATH": str(Path(__file__).parents[3])}))
        started[-1].start()
        wait_for(lambda: any("ready" in line for line in started[-1].lines()), 20, "the stack")
        return started[-1]

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield start
    for one in started:
        one.stop()
        for pid in one.children().values():
            processes.kill_session(pid)


def test_a_child_of_the_stack_is_held_and_let_go(stack: Callable[..., Stack], tmp_path: Path, settings: Any) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path
    running = stack(beat=SLEEP, **{"worker-proof": SLEEP})
    (control,) = controls_of_stack()  # never the worker that carries the restore out
    assert (control.name, control.is_running()) == ("beat", True)
    first = running.children()["beat"]
    control.stop(timeout_seconds=15)
    assert control.is_running() is False
    found = processes.find(first)
    assert found is None or found.is_zombie
    assert [held.name for held in controls_of_stack()] == ["beat"]  # also while it is held
    control.stop(timeout_seconds=15)
    control.start(timeout_seconds=15)
    assert control.is_running() is True
    assert running.children()["beat"] != first
    assert list((tmp_path / "run" / "held").iterdir()) == []


def test_a_worker_counts_as_started_once_it_says_that_it_is_ready(
    stack: Callable[..., Stack], tmp_path: Path, settings: Any
) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path
    ready = tmp_path / "run" / "ready" / "worker-work"
    ready.parent.mkdir()
    stack(**{"worker-work": SLEEP})
    (control,) = controls_of_stack()
    control.stop(timeout_seconds=15)
    with pytest.raises(Unavailable, match="worker-work does not answer"):
        control.start(timeout_seconds=1)
    ready.touch()
    control.start(timeout_seconds=15)


def test_where_no_stack_runs_letting_a_child_go_waits_for_nobody(tmp_path: Path, settings: Any) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path
    held = tmp_path / "run" / "held" / "sample"
    held.parent.mkdir(parents=True)
    held.touch()
    assert (stack_is_up(tmp_path), controls_of_stack()) == (False, [])
    ChildControl("sample", tmp_path).start(timeout_seconds=30)
    assert not held.exists()
