"""What takes long: workers killed at any instant of a beginning, and a disk that is really full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.pipeline import folder as files
from deployments.pipeline import runner
from deployments.pipeline.base import Limits, StepSpec
from tests import needs

from .conftest import ended, runs
from .test_runner import ROOT, python

pytestmark = pytest.mark.faults
Spec = Callable[..., StepSpec]
#: More than a pipe holds: the worker waits for the shepherd to read it.
MUCH = {f"MUCH_{number}": "x" * 50_000 for number in range(4)}


def test_a_worker_killed_at_any_instant_of_a_beginning_leaves_a_step_that_runs_once(tmp_path: Path, spec: Spec) -> None:
    step = spec("sh", "-c", "echo ran >> runs; sleep 0.2", environ=MUCH)
    chance, in_time = random.Random(11), 0
    for attempt in range(15):
        folder = tmp_path / f"step-{attempt}"
        text = f"""
            from pathlib import Path
            from deployments.pipeline import runner
            from deployments.pipeline.base import StepSpec
            much = {{f"MUCH_{{number}}": "x" * 50_000 for number in range(4)}}
            step = StepSpec("s", "command", {step.argv!r}, Path({str(step.cwd)!r}), 60, much)
            print("now", flush=True)
            runner.begin(step, Path({str(folder)!r}))
            print("begun", flush=True)
        """
        with subprocess.Popen(
            python(text), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "now\n"
            time.sleep(chance.uniform(0, 0.25))
            worker.send_signal(signal.SIGKILL)
            in_time += worker.stdout.read() == ""
        if runner.look(folder).gone or attempt % 2:  # another worker comes at once, or only where it is needed
            runner.begin(step, folder)
        seen = ended(folder)
        while seen.gone:  # the shepherd waited for a worker that had died already
            runner.begin(step, folder)
            seen = ended(folder)
        assert (seen.exit_code, seen.reason) == (0, "")
        assert (tmp_path / "runs").read_text() == "ran\n"
        (tmp_path / "runs").unlink()
    assert in_time  # some were killed before begin had returned


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        needs.leave_out(f"no file system may be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_how_a_step_ended_is_written_although_it_has_filled_the_disk(small_disk: Path, spec: Spec) -> None:
    folder = small_disk / "step"
    fills = "cat /dev/zero > much; echo the disk is full; exit 5"
    runner.begin(spec("sh", "-c", fills, cwd=small_disk), folder, Limits(free_bytes=0))
    seen = ended(folder)
    assert seen.exit_code == 5
    assert os.statvfs(small_disk).f_bavail == 0


def test_a_floor_below_the_free_space_of_a_small_disk_stops_a_step_that_reaches_it(
    small_disk: Path, spec: Spec
) -> None:
    folder = small_disk / "step"
    handle = runner.begin(
        spec("sh", "-c", "head -c 3000000 /dev/zero > much; sleep 600", cwd=small_disk), folder,
        Limits(free_bytes=2_000_000, grace_seconds=0.3),
    )  # fmt: skip
    seen = ended(folder, handle)
    assert seen.reason.startswith(f"The disk of {folder} ran full: 0.00 GB are free, and 0.002 GB must stay free.")
    assert not runs(handle["pid"])
    assert not files.is_held(folder)
