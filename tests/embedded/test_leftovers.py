"""What an earlier run left is found and ended; what only looks like it is left alone. Real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.embedded import leftovers, processes

SLEEPER = "import time; time.sleep(60)"
#: A leader that starts a member in its session, says its pid and sleeps; neither heeds SIGTERM.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
time.sleep(60)
"""


class Started:
    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def __call__(self, code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True
        )
        self.all.append(process)
        return process


@pytest.fixture
def start() -> Iterator[Started]:
    started = Started()
    yield started
    for process in started.all:
        processes.kill_session(process.pid)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def member_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_a_leftover_and_its_whole_session_are_ended(tmp_path: Path, start: Started) -> None:
    leader = start(STUBBORN)
    member = member_of(leader)
    leftovers.write_mark(tmp_path, "web", leader.pid)
    assert leftovers.clean_up(tmp_path, grace_seconds=0.3) == ["web"]
    assert leader.wait(5) == -signal.SIGKILL
    assert processes.session_members(leader.pid) == []
    found = processes.find(member)
    assert found is None or found.is_zombie
    assert list(tmp_path.iterdir()) == []


def test_members_are_ended_when_their_leader_is_dead_already(tmp_path: Path, start: Started) -> None:
    leader = start(STUBBORN)
    member = member_of(leader)
    leftovers.write_mark(tmp_path, "web", leader.pid)
    leader.kill()
    leader.wait(5)
    assert [process.pid for process in processes.session_members(leader.pid)] == [member]
    assert leftovers.clean_up(tmp_path, grace_seconds=0.1) == ["web"]
    assert processes.session_members(leader.pid) == []


def test_a_leftover_that_heeds_sigterm_is_not_killed(tmp_path: Path, start: Started) -> None:
    leader = start(
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print(1, flush=True); time.sleep(60)"
    )
    member_of(leader)
    leftovers.write_mark(tmp_path, "redis", leader.pid)
    waiter = subprocess.Popen([sys.executable, "-c", SLEEPER])  # somebody else's process
    try:
        assert leftovers.clean_up(tmp_path, grace_seconds=5) == ["redis"]
        assert leader.wait(5) == 7
        assert waiter.poll() is None
    finally:
        waiter.kill()
        waiter.wait()


def test_a_process_that_got_the_pid_later_is_left_alone(tmp_path: Path, start: Started) -> None:
    other = start(SLEEPER)
    leftovers.write_mark(tmp_path, "web", other.pid)
    path = tmp_path / "web.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "1"}))
    assert leftovers.clean_up(tmp_path, grace_seconds=0.1) == []
    time.sleep(0.1)
    assert other.poll() is None
    assert list(tmp_path.iterdir()) == []


def test_a_mark_from_before_a_reboot_says_nothing(tmp_path: Path, start: Started) -> None:
    other = start(SLEEPER)
    leftovers.write_mark(tmp_path, "web", other.pid)
    path = tmp_path / "web.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another boot"}))
    assert leftovers.clean_up(tmp_path, grace_seconds=0.1) == []
    assert other.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_half_a_mark_is_no_mark(tmp_path: Path, text: str) -> None:
    (tmp_path / "web.json").write_text(text)
    assert leftovers.read_mark(tmp_path / "web.json") is None
    assert leftovers.clean_up(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_mark_holds_the_start_time_that_the_kernel_tells(tmp_path: Path, start: Started) -> None:
    process = start(SLEEPER)
    leftovers.write_mark(tmp_path, "web", process.pid)
    mark = leftovers.read_mark(tmp_path / "web.json")
    assert mark is not None
    assert mark.pid == process.pid
    if processes.ON_LINUX:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        assert mark.started == stat[stat.rindex(")") + 2 :].split()[19]
