"""Dead processes' counts go into one archive: none is lost, none counts twice, and nothing grows."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from controlplane.kernel.errors import Unavailable
from controlplane.monitoring import compaction, processes
from tests.monitoring.counting import count_in, counting_process, kill

NOBODY = 2**22 + 17  # no process has a number above the kernel's largest


def total(folder: Path) -> float:
    return sum(math.fsum(parts) for parts in compaction.collect(folder).sums["counter"].values())


def test_the_counts_of_dead_processes_are_kept_and_their_files_are_not(tmp_path: Path) -> None:
    for number in range(5):
        count_in(tmp_path, f"{NOBODY + number}-1", 10)
    assert total(tmp_path) == 50
    assert total(tmp_path) == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.json", "metrics.lock"]


def test_a_living_process_keeps_its_file(tmp_path: Path) -> None:
    pid, started = processes.me()
    count_in(tmp_path, f"{pid}-{started}", 3)
    count_in(tmp_path, f"{pid}", 4)
    count_in(tmp_path, f"{NOBODY}-1", 5)
    assert total(tmp_path) == 12
    assert {path.name for path in tmp_path.glob("*.db")} == {f"counter_{pid}-{started}.db", f"counter_{pid}.db"}


def test_a_number_that_came_back_is_another_process(tmp_path: Path) -> None:
    pid, started = processes.me()
    count_in(tmp_path, f"{pid}-{started - 1}", 7)
    assert total(tmp_path) == 7
    assert list(tmp_path.glob("*.db")) == []


def test_gauges_of_dead_processes_are_dropped(tmp_path: Path) -> None:
    pid, started = processes.me()
    count_in(tmp_path, f"{NOBODY}-1", 2, kind="gauge_livemax", name="toy")
    count_in(tmp_path, f"{pid}-{started}", 1, kind="gauge_livemax", name="toy")
    assert [gauge.value for gauge in compaction.collect(tmp_path).gauges] == [1.0]
    assert len(list(tmp_path.glob("gauge_*"))) == 1


def test_a_killed_process_is_dead_before_its_parent_has_noticed(tmp_path: Path) -> None:
    code = "from controlplane.monitoring.metrics import count_vector_operation as c; c('add', 'redis', 'success')"
    process = counting_process(tmp_path, code)
    try:
        assert total(tmp_path) == 1
        kill(process, reap=False)
        deadline = time.monotonic() + 60
        while processes.lives(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert total(tmp_path) == 1
        assert list(tmp_path.glob("*.db")) == []
    finally:
        process.wait(10)


@pytest.mark.parametrize("killed_after", range(1, 9))
def test_a_merge_that_is_killed_anywhere_loses_and_doubles_nothing(
    tmp_path: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step that changes the directory may be the last one."""

    class Killed(BaseException):
        pass

    steps = itertools.count(1)

    def then_die(name: str) -> None:
        real = getattr(Path, name)

        def step(self: Path, *args: object, **kwargs: object) -> object:
            done = real(self, *args, **kwargs)
            if next(steps) == killed_after:
                raise Killed
            return done

        monkeypatch.setattr(Path, name, step)

    for number in range(3):
        count_in(tmp_path, f"{NOBODY + number}-1", 10)
    for name in ("rename", "write_text", "replace", "unlink"):
        then_die(name)
    with pytest.raises(Killed):
        compaction.collect(tmp_path)
    assert next(steps) == killed_after + 1  # it was killed there and did nothing more
    monkeypatch.undo()
    assert total(tmp_path) == 30
    count_in(tmp_path, f"{NOBODY + 9}-1", 1)
    assert total(tmp_path) == 31
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.json", "metrics.lock"]


def test_sums_never_shrink_by_rounding(tmp_path: Path) -> None:
    numbers = random.Random(7)
    last = 0.0
    pid, started = processes.me()
    for number in range(120):
        count_in(tmp_path, f"{NOBODY + number}-1", numbers.random() / 3, kind="histogram", name="toy_sum")
        count_in(tmp_path, f"{pid}-{started}", number * 0.1, kind="histogram", name="toy_sum")
        (parts,) = compaction.collect(tmp_path).sums["histogram"].values()
        assert compaction.sum_up(parts) >= last
        last = compaction.sum_up(parts)


def test_a_file_that_broke_off_gives_what_it_has(tmp_path: Path) -> None:
    (tmp_path / f"counter_{NOBODY}-1.db").touch()  # killed between open and truncate
    count_in(tmp_path, f"{NOBODY + 1}-1", 2)
    count_in(tmp_path, f"{NOBODY + 2}-1", 2)
    broken = tmp_path / f"counter_{NOBODY + 2}-1.db"
    broken.write_bytes(broken.read_bytes()[:20])
    assert total(tmp_path) == 2
    assert list(tmp_path.glob("*.db")) == []


def test_readers_at_once_see_every_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LOCK_SECONDS", 60)
    for number in range(60):
        count_in(tmp_path, f"{NOBODY + number}-1", 1)
    seen: list[float] = []
    threads = [threading.Thread(target=lambda: seen.append(total(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [60.0] * 8


def test_a_lock_that_is_never_released_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LOCK_SECONDS", 0.1)
    count_in(tmp_path, f"{NOBODY}-1", 1)
    with compaction._locked(tmp_path, 0):
        with pytest.raises(Unavailable, match="lock"):
            compaction.collect(tmp_path)
        assert compaction.tidy(tmp_path) == 0
    assert total(tmp_path) == 1


def test_a_starting_process_tidies_up_without_any_scrape(tmp_path: Path) -> None:
    for number in range(70):
        count_in(tmp_path, f"{NOBODY + number}-1", 1)
    process = counting_process(tmp_path, "import controlplane.monitoring.registry")
    kill(process)
    assert list(tmp_path.glob("*.db")) == []
    assert total(tmp_path) == 70


def test_after_500_dead_workers_a_scrape_reads_one_small_file_of_all(tmp_path: Path) -> None:
    keys = [
        mmap_key("toy_seconds", "toy_seconds_bucket", ["route", "le"], [f"/route{route}", str(bound)], "A toy.")
        for route in range(10)
        for bound in range(12)
    ]
    for number in range(500):
        store = MmapedDict(str(tmp_path / f"histogram_{NOBODY + number}-1.db"))
        for key in keys:
            store.write_value(key, 1.0, 0.0)
        store.close()
    compaction.collect(tmp_path)  # the one that merges them
    sums = compaction.collect(tmp_path).sums["histogram"]
    assert [math.fsum(parts) for parts in sums.values()] == [500.0] * len(keys)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000
