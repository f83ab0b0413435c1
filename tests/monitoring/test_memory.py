"""What a process says of its own memory."""

from __future__ import annotations

import mmap
import os
import threading

import psutil
import pytest

from controlplane.monitoring import memory


def test_the_resident_set_is_what_the_kernel_says() -> None:
    said, seen = memory.resident_bytes(), psutil.Process().memory_info().rss
    assert abs(said - seen) < 2 * 2**20


def test_a_block_that_is_written_to_shows() -> None:
    # a mapping of its own: a block of the heap may lie where freed memory is resident already
    with mmap.mmap(-1, 20 * 2**20) as block:
        before = memory.resident_bytes()
        block.write(b"x" * len(block))
        assert memory.resident_bytes() - before > 15 * 2**20


def test_threads_that_read_at_once_all_read_something_sensible() -> None:
    readings: list[int] = []

    def read() -> None:
        readings.extend(memory.resident_bytes() for _ in range(2000))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = psutil.Process().memory_info().rss
    assert len(readings) == 16_000
    assert all(now / 2 < reading < now * 2 for reading in readings)


def test_without_the_file_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATM", "/nowhere/statm")
    monkeypatch.setattr(memory, "_open", (0, -1))
    assert abs(memory.resident_bytes() - psutil.Process().memory_info().rss) < 2 * 2**20
    assert memory._open == (os.getpid(), -1)
