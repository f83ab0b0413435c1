"""A Chroma that freezes or dies while it is read: nothing is captured, and nobody waits for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backups.errors import CaptureFailed
from backups.sources import chroma_export
from backups.sources.chroma_client import Server
from backups.sources.scratch.chroma import scratch_chroma
from controlplane.kernel import clock
from controlplane.kernel.errors import Unavailable
from tests.backups.servers.chroma import make, put, source_of

pytestmark = pytest.mark.faults


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, int]]:
    """A server to hurt, with enough in it for many pages, and its process."""
    monkeypatch.setattr(chroma_export, "MOST_PAGE_RECORDS", 20)
    before = {child.pid for child in psutil.Process().children()}
    with scratch_chroma(tmp_path) as server:
        (pid,) = {child.pid for child in psutil.Process().children()} - before
        put(server, make(server, "only"), [f"id{n}" for n in range(1000)], dimension=500)
        yield server, pid


def test_a_server_that_dies_in_the_middle_is_no_capture(own_server: tuple[Server, int], tmp_path: Path) -> None:
    server, pid = own_server
    with source_of(server).capture(now=clock.now(), scratch=tmp_path) as capture:
        chunks = capture.chunks()
        next(chunks)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(CaptureFailed, match="could not be read to its end"):
            b"".join(chunks)
    with pytest.raises(Unavailable):
        source_of(server).capture(now=clock.now(), scratch=tmp_path).__enter__()


def test_a_frozen_server_does_not_hold_up_an_interruption(own_server: tuple[Server, int], tmp_path: Path) -> None:
    server, pid = own_server
    threads = threading.active_count()
    try:
        with source_of(server).capture(now=clock.now(), scratch=tmp_path) as capture:
            chunks = capture.chunks()
            next(chunks)
            os.kill(pid, signal.SIGSTOP)
            interruption = threading.Timer(0.5, capture.interrupt)
            interruption.start()
            began = time.monotonic()
            with pytest.raises(CaptureFailed, match="stopped before its end"):
                for _ in chunks:
                    pass
        assert 0.3 < time.monotonic() - began < 5
    finally:
        os.kill(pid, signal.SIGCONT)
    interruption.join()
    assert threading.active_count() <= threads


def test_a_scratch_server_that_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backups.sources.scratch import chroma

    monkeypatch.setattr(chroma, "command", lambda: ["/bin/sh", "-c", "echo no such luck >&2; exit 3", "sh"])
    with pytest.raises(Unavailable, match="did not start: no such luck"), scratch_chroma(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_server_is_gone_with_the_thread_that_started_it(tmp_path: Path) -> None:
    """A drill whose worker is killed leaves no server behind: here in small, by a process that is killed."""
    import subprocess
    import sys

    script = (
        "import sys, time, pathlib\n"
        "from backups.sources.scratch.chroma import scratch_chroma\n"
        "with scratch_chroma(pathlib.Path(sys.argv[1])) as server:\n"
        "    print(server.url, flush=True); time.sleep(1000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"http://127.0.0.1:")
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait(10)
    process.stdout.close()
    assert psutil.wait_procs([child], timeout=10)[1] == []
