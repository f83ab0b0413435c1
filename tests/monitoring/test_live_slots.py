"""Requests in flight, over processes that come, fork, and are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from controlplane.monitoring import processes
from controlplane.monitoring.live_slots import FILE_NAME, MOST_SLOTS, Slots
from tests.monitoring.counting import counting_process, kill

ENTER = "from controlplane.monitoring import live_slots\nfor _ in range(3): live_slots.enter()"


def test_a_process_alone_counts_itself() -> None:
    slots = Slots(None)
    assert (slots.here(), slots.total()) == (0, 0)
    slots.enter()
    slots.enter()
    slots.leave()
    assert (slots.here(), slots.total()) == (1, 1)


def test_it_never_goes_below_zero() -> None:
    slots = Slots(None)
    slots.enter()
    for _ in range(3):
        slots.leave()
    assert slots.total() == 0


def test_all_living_processes_count_and_a_killed_one_is_forgotten_at_once(tmp_path: Path) -> None:
    mine = Slots(tmp_path)
    mine.enter()
    others = [counting_process(tmp_path, ENTER) for _ in range(2)]
    try:
        assert mine.total() == 7
        kill(others[0], reap=False)
        deadline = time.monotonic() + 60
        while mine.total() != 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        kill(others[1])
        others[0].wait(10)
    assert mine.total() == 1


def test_the_slots_of_dead_processes_are_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        kill(counting_process(tmp_path, ENTER))
    mine = Slots(tmp_path)
    mine.enter()
    assert mine.total() == 1
    assert (tmp_path / FILE_NAME).stat().st_size == MOST_SLOTS * 24
    taken = memoryview((tmp_path / FILE_NAME).read_bytes()).cast("q")
    assert [taken[at] for at in range(0, len(taken), 3) if taken[at]] == [os.getpid()]


def test_a_forked_child_starts_at_zero_and_leaves_its_parents_count_alone(tmp_path: Path) -> None:
    code = """
import os
import subprocess
import sys
from controlplane.monitoring import live_slots
live_slots.enter()
read, write = os.pipe()
child = os.fork()
if child == 0:
    live_slots.leave()
    live_slots.enter()
    os.write(write, f"{live_slots.here()} {live_slots.total()}".encode())
    os._exit(0)
os.waitpid(child, 0)
assert os.read(read, 99) == b"1 2", "the child"
assert (live_slots.here(), live_slots.total()) == (1, 1), "the parent"
"""
    kill(counting_process(tmp_path, code))


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    pid, started = processes.me()
    assert pid == os.getpid()
    assert processes.lives(pid, started)
    assert processes.lives(pid)
    assert not processes.lives(pid, started + 1)
    assert not processes.lives(2**22 + 17)


def test_a_second_process_gets_a_slot_while_the_first_lives_on(tmp_path: Path) -> None:
    """The map keeps a copy of the file's descriptor, and with it a lock that closing the file does not end."""
    code = (
        "import sys; from pathlib import Path; from controlplane.monitoring.live_slots import Slots\n"
        "slots = Slots(Path(sys.argv[1])); slots.enter(); print(slots.total(), flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "1\n"
        second = subprocess.run(
            [sys.executable, "-c", code, tmp_path], input="", capture_output=True, text=True, timeout=60, check=True
        )
        assert second.stdout == "2\n"
    finally:
        first.communicate("")
