"""Stopping, killing and starting the whole stack again leaves nothing behind and loses nothing."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from controlplane.embedded import processes
from controlplane.kernel.redis_urls import LONGEST_SOCKET_PATH, socket_path
from tests.deployments.on_stack import OnStack
from tests.stack import ROOT, Stack, http_status, wait_for
from tests.stopwatch import Stopwatch

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("stack")]

MakeStack = Callable[..., Stack]
MAKE = ("make", "--no-print-directory", "-C", str(ROOT), "run")


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    stacks: list[Stack] = []

    def make(data_dir: Path | None = None, command: tuple[str, ...] | None = None) -> Stack:
        stack = Stack(data_dir or tmp_path / "var", **({"command": command} if command else {}))
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        stack.stop()


def wait_until_gone(stack: Stack) -> None:
    wait_for(lambda: not stack.processes(), 30, "the end of every process")


def wait_until_answered(url: str) -> None:
    wait_for(lambda: http_status(url) == 200, 60, f"an answer of {url}")


def wait_until_idle(stack: Stack) -> None:
    """The first release serves, the first backup is made, and its proofs are over."""
    on = OnStack(stack)

    def is_idle() -> bool:
        counts = on.rows(
            "SELECT (SELECT count(*) FROM deployments_deployment WHERE state = 'succeeded'), "
            "(SELECT count(*) FROM backups_backuprecord WHERE state = 'committed'), "
            "(SELECT count(*) FROM backups_proofrun WHERE finished_at IS NOT NULL), "
            "(SELECT count(*) FROM backups_proofrun WHERE finished_at IS NULL)"
        )
        released, saved, proven, unproven = counts[0]
        return bool(released and saved and proven) and not unproven

    wait_for(is_idle, 300, "the first release, the first backup and its proofs")


def test_sigterm_leaves_no_process_within_ten_seconds(make_stack: MakeStack) -> None:
    stack = make_stack().start().wait_ready()
    assert len(stack.processes()) >= 12  # supervisor, Redis, 2 × granian with 2 workers, 2 × Celery with 2, beat
    wait_until_idle(stack)  # a worker that is busy may take longer
    with Stopwatch() as watch:
        stack.process.send_signal(signal.SIGTERM)
        assert stack.wait(60) == 0
        wait_until_gone(stack)
    assert watch.seconds < 10
    assert stack.children() == {}
    assert http_status(stack.web_url) is None


def test_the_next_run_has_what_the_last_one_held_and_tells_no_password_again(make_stack: MakeStack) -> None:
    stack = make_stack().start().wait_ready()
    password = stack.admin_password
    assert len(password) >= 12
    with redis.Redis.from_url(stack.redis_url) as client:
        client.set("a-count", 41)
    stack.process.send_signal(signal.SIGINT)
    assert stack.wait(60) == 0
    for log in (stack.data_dir / "logs").iterdir():
        assert password not in log.read_text(errors="replace"), log.name
    stack.start().wait_ready()
    with redis.Redis.from_url(stack.redis_url) as client:
        assert client.get("a-count") == b"41"
    assert not any("admin password" in line for line in stack.lines())


def test_after_a_sigkill_of_the_supervisor_the_next_run_cleans_up(make_stack: MakeStack) -> None:
    stack = make_stack().start().wait_ready()
    first = {name: processes.session_members(pid) for name, pid in stack.children().items()}
    assert len(first) >= 6
    # Frozen processes do not hear that their parent died: these two are left for certain.
    frozen = [process.pid for name in ("web", "redis") for process in first[name]]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    stack.process.kill()
    stack.process.wait(5)
    left = {process.pid for name in ("web", "redis") for process in processes.session_members(first[name][0].session)}
    assert left == set(frozen)
    stack.start().wait_ready()
    assert any(line.startswith("ended what an earlier run had left: ") and "web" in line for line in stack.lines())
    for members in first.values():
        for process in members:
            now = processes.find(process.pid)
            assert now is None or now.is_zombie or now.started != process.started
    wait_until_answered(f"{stack.web_url}/readyz")


def test_a_child_that_dies_five_times_in_a_minute_stops_the_stack(make_stack: MakeStack) -> None:
    stack = make_stack().start().wait_ready()
    victims: list[int] = []
    for _death in range(5):
        pid = wait_for(
            lambda: (found := stack.children().get("beat")) and found not in victims and found, 10, "the next beat"
        )
        victims.append(pid)
        os.kill(pid, signal.SIGKILL)
    assert stack.wait(60) == 1
    assert len(set(victims)) == 5
    last = stack.lines()[-1]
    assert last == f"beat died 5 times in a minute (SIGKILL). See {stack.data_dir}/logs/beat.log."
    assert "The last lines of beat:" in stack.lines()
    wait_until_gone(stack)


def test_a_second_stack_on_the_same_directory_is_refused_and_the_first_runs_on(make_stack: MakeStack) -> None:
    first = make_stack().start().wait_ready()
    children = first.children()
    second = make_stack().start()
    assert second.wait(60) == 1
    assert second.lines() == [
        f"Another stack runs on {first.data_dir} (pid {first.process.pid}). "
        "Stop it first, or set ZANTARA_DATA_DIR to another directory."
    ]
    assert first.children() == children
    wait_until_answered(f"{first.web_url}/readyz")


@pytest.mark.parametrize("name", ["with a space", "odd %20 #1? é+&=", "long-" + "x" * 120])
def test_a_data_directory_may_have_any_name(make_stack: MakeStack, name: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="zt-"))  # short, so that only the long name is too long for a socket
    data_dir = root / name / "var"
    stack = make_stack(data_dir).start().wait_ready()
    wait_until_answered(f"{stack.sample_url}/zantara.unified")
    assert (data_dir / "controlplane.sqlite3").is_file()
    socket = socket_path(data_dir)
    assert socket.is_socket()
    assert socket.is_relative_to(data_dir) is not name.startswith("long-")
    assert len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    stack.process.send_signal(signal.SIGTERM)
    assert stack.wait(60) == 0
    wait_until_gone(stack)
    shutil.rmtree(root)


def test_make_passes_sigterm_on_and_leaves_nothing(make_stack: MakeStack) -> None:
    stack = make_stack(command=MAKE).start().wait_ready()
    stack.process.send_signal(signal.SIGTERM)  # to make alone
    stack.wait(60)
    wait_until_gone(stack)
    assert any(line.endswith("| stopping") for line in stack.lines())


def test_ctrl_c_reaches_the_stack_under_make(make_stack: MakeStack) -> None:
    stack = make_stack(command=MAKE).start().wait_ready()
    os.killpg(stack.process.pid, signal.SIGINT)  # what a terminal does
    stack.wait(60)
    wait_until_gone(stack)
    assert any(line.endswith("| stopping") for line in stack.lines())


def test_after_a_sigkill_of_make_the_next_make_run_is_ready(make_stack: MakeStack) -> None:
    stack = make_stack(command=MAKE).start().wait_ready()
    first = set(stack.children().values())
    stack.process.kill()  # make alone: the stack is its orphan
    stack.process.wait(5)
    stack.start().wait_ready()
    assert not first & set(stack.children().values())
    wait_until_answered(f"{stack.web_url}/readyz")
