"""The supervisor on toy children: real processes, real signals, in seconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlplane.embedded import processes
from tests.stack import Stack, wait_for
from tests.stopwatch import Stopwatch

SLEEP = "import time; print('hello', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
#: A leader that dies at SIGTERM and leaves a deaf member in a process group of its own.
FAMILY = f"""
import subprocess, sys, time
print("member", subprocess.Popen([sys.executable, "-c", {DEAF!r}], process_group=0).pid, flush=True)
time.sleep(600)
"""

Run = Callable[..., Stack]


@pytest.fixture
def hears_hangups() -> Iterator[None]:
    """A stack leaves SIGHUP ignored where it finds it so, and so may this run have been started, by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started: list[Stack] = []

    def start(**children: str) -> Stack:
        children.setdefault("bootstrap", "print('done')")
        command = (sys.executable, "-m", "tests.embedded.toy_stack", str(tmp_path), json.dumps(children))
        stack = Stack(tmp_path, command=command, environ={"PYTHONPATH": str(Path(__file__).parents[2])})
        started.append(stack)
        return stack.start()

    yield start
    for stack in started:
        stack.stop()
        for pid in stack.children().values():
            processes.kill_session(pid)


def wait_line(stack: Stack, text: str, seconds: float = 60) -> str:
    return str(wait_for(lambda: next((x for x in stack.lines() if text in x), None), seconds, f"a line with {text!r}"))


def gone(pid: int) -> bool:
    found = processes.find(pid)
    return found is None or found.is_zombie


def test_lines_of_children_are_prefixed_and_logged(run: Run, tmp_path: Path) -> None:
    stack = run(web=SLEEP)
    wait_line(stack, "ready")
    wait_line(stack, "hello")
    assert "web       | hello" in stack.lines()
    assert (tmp_path / "logs" / "web.log").read_text() == "hello\n"


def test_what_is_for_the_operator_alone_reaches_no_log(run: Run, tmp_path: Path) -> None:
    stack = run(bootstrap="print('secret: 42'); print('more')", web=SLEEP)
    wait_line(stack, "ready")
    assert "secret: 42" in stack.lines()
    assert (tmp_path / "logs" / "bootstrap.log").read_text() == "more\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_wanted_stop_ends_all_with_exit_code_zero(hears_hangups: None, run: Run, number: signal.Signals) -> None:
    stack = run(redis=SLEEP, web=SLEEP, beat=SLEEP)
    wait_line(stack, "ready")
    children = stack.children()
    assert sorted(children) == ["beat", "redis", "web"]
    with Stopwatch() as watch:
        stack.process.send_signal(number)
        assert stack.wait(60) == 0
    assert watch.seconds < 10  # what the stack promises
    assert all(gone(pid) for pid in children.values())
    assert stack.children() == {}


def test_redis_is_stopped_last(run: Run) -> None:
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('bye', flush=True)))\n"
        "print('listening', flush=True); time.sleep(600)"
    )
    stack = run(redis=code, web=code, beat=code)
    wait_line(stack, "ready")
    wait_for(lambda: sum("listening" in line for line in stack.lines()) == 3, 60, "all three listen")
    stack.process.send_signal(signal.SIGTERM)
    assert stack.wait(60) == 0
    assert [line for line in stack.lines() if "bye" in line][-1] == "redis     | bye"


def test_a_deaf_child_is_killed_within_ten_seconds(run: Run) -> None:
    stack = run(redis=DEAF, web=DEAF, beat=SLEEP)
    wait_for(lambda: sum("deaf" in line for line in stack.lines()) == 2, 60, "both deaf")
    children = stack.children()
    started = time.monotonic()
    with Stopwatch() as watch:
        stack.process.send_signal(signal.SIGTERM)
        assert stack.wait(30) == 0
    assert time.monotonic() - started > 6  # it was given its time
    assert watch.seconds < 10
    assert all(gone(pid) for pid in children.values())


def test_a_second_wish_to_stop_kills_at_once(run: Run) -> None:
    stack = run(web=DEAF)
    wait_line(stack, "deaf")
    stack.process.send_signal(signal.SIGINT)
    wait_line(stack, "stopping")
    time.sleep(1.2)
    assert stack.process.poll() is None
    stack.process.send_signal(signal.SIGINT)
    assert stack.wait(4) == 0  # long before its time is over


def test_the_same_wish_that_arrives_twice_is_one(run: Run) -> None:
    stack = run(web=DEAF)
    wait_line(stack, "deaf")
    stack.process.send_signal(signal.SIGTERM)
    stack.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert stack.process.poll() is None


def test_what_a_child_leaves_in_its_session_ends_with_it(run: Run) -> None:
    stack = run(web=FAMILY)
    member = int(wait_line(stack, "member").split()[-1])
    wait_line(stack, "deaf")
    with Stopwatch() as watch:
        stack.process.send_signal(signal.SIGTERM)
        assert stack.wait(60) == 0
    assert watch.seconds < 5
    assert gone(member)


def test_a_killed_child_comes_back_and_its_old_session_is_gone(run: Run) -> None:
    stack = run(web=FAMILY)
    member = int(wait_line(stack, "member").split()[-1])
    first = wait_for(lambda: stack.children().get("web"), 60, "a mark")
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: stack.children().get("web", first) != first and stack.children()["web"], 60, "a new one")
    assert second != first
    assert gone(member)
    told = wait_line(stack, "web ended")
    assert told == "stack     | web ended (SIGKILL); it starts again in 0.2 s"


def test_a_child_that_keeps_dying_stops_the_stack_with_its_last_words(run: Run, tmp_path: Path) -> None:
    stack = run(beat=SLEEP, web="import sys; [print('word', n) for n in range(30)]; sys.exit(3)")
    assert stack.wait(60) == 1
    lines = stack.lines()
    assert sum("web ended (exit code 3)" in line for line in lines) == 4
    start = lines.index("The last lines of web:")
    assert lines[start + 1 : start + 21] == [f"  word {n}" for n in range(10, 30)]
    assert lines[-1] == f"web died 5 times in a minute (exit code 3). See {tmp_path}/logs/web.log."
    assert stack.children() == {}


def test_a_held_child_stays_stopped_until_it_is_let_go(run: Run, tmp_path: Path) -> None:
    stack = run(web=SLEEP, beat=SLEEP)
    wait_line(stack, "ready")
    first, beat = stack.children()["web"], stack.children()["beat"]
    held = tmp_path / "run" / "held" / "web"
    held.parent.mkdir(parents=True)
    held.touch()
    wait_for(lambda: "web" not in stack.children(), 60, "the end of web")
    time.sleep(1.5)  # the restart after a death would have come by now
    assert gone(first)
    assert stack.children() == {"beat": beat}
    held.unlink()
    wait_line(stack, "web is let go")
    wait_for(lambda: stack.children().get("web"), 60, "a new web")
    lines = [line for line in stack.lines() if line.startswith("stack ")]
    assert lines == ["stack     | web is held: it stays stopped until it is let go", "stack     | web is let go"]


def test_a_held_child_that_is_deaf_is_killed(run: Run, tmp_path: Path) -> None:
    stack = run(web=DEAF)
    wait_line(stack, "deaf")
    (tmp_path / "run" / "held").mkdir(parents=True)
    (tmp_path / "run" / "held" / "web").touch()
    wait_for(lambda: "web" not in stack.children(), 60, "the end of web")


def test_a_stack_that_starts_while_a_child_is_held_is_ready_without_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run" / "held").mkdir(parents=True)
    (tmp_path / "run" / "held" / "web").touch()
    stack = run(web="open('web.ready', 'w').close(); import time; time.sleep(600)", beat=SLEEP)
    wait_line(stack, "ready")
    assert set(stack.children()) == {"beat"}
    (tmp_path / "run" / "held" / "web").unlink()
    wait_line(stack, "web is let go")
    wait_for(lambda: stack.children().get("web"), 60, "web")


def test_being_held_often_is_no_reason_to_give_up(run: Run, tmp_path: Path) -> None:
    stack = run(web=SLEEP)
    wait_line(stack, "ready")
    held = tmp_path / "run" / "held" / "web"
    held.parent.mkdir(parents=True)
    for _ in range(6):
        held.touch()
        wait_for(lambda: "web" not in stack.children(), 60, "the end of web")
        held.unlink()
        wait_for(lambda: stack.children().get("web"), 60, "a new web")
    assert stack.process.poll() is None


def test_a_bootstrap_that_fails_stops_the_stack_before_the_services(run: Run) -> None:
    stack = run(redis=SLEEP, bootstrap="import sys; print('no room'); sys.exit(1)", web=SLEEP)
    assert stack.wait(60) == 1
    assert "The bootstrap failed (exit code 1)." in stack.lines()[-1]
    assert "  no room" in stack.lines()
    assert not any(line.startswith("web ") for line in stack.lines())


def test_a_redis_that_dies_at_its_start_is_reported_with_its_last_line(run: Run) -> None:
    stack = run(redis="print('redis.ready never'); print('Fatal: bad file'); raise SystemExit(1)", web=SLEEP)
    assert stack.wait(60) == 1
    assert "Redis did not come up within 10 s; its last line was: Fatal: bad file." in stack.lines()[-1]
    assert not any(line.startswith(("web ", "bootstrap ")) for line in stack.lines())


def test_the_stack_is_ready_only_when_every_child_is(run: Run, tmp_path: Path) -> None:
    slow = (
        "import pathlib, time; print('waiting', flush=True)\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.05)\n"
        "open('web.ready', 'w').close(); time.sleep(600)"
    )
    stack = run(web=slow, beat=SLEEP)
    wait_line(stack, "web       | waiting")
    wait_line(stack, "beat      | hello")
    time.sleep(0.5)  # time enough to say it too early
    assert "ready" not in stack.lines()
    (tmp_path / "go").touch()
    wait_line(stack, "ready")


def test_children_end_when_the_supervisor_is_killed(run: Run) -> None:
    if not processes.ON_LINUX:
        pytest.skip("left out: only Linux tells a child of its parent's death")
    stack = run(redis=SLEEP, web=SLEEP)
    wait_line(stack, "ready")
    children = stack.children()
    stack.process.kill()
    wait_for(lambda: all(gone(pid) for pid in children.values()), 60, "the children's end")
