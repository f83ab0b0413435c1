"""A worker that is busy when the stack stops gives its task back, so that the next run does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.embedded import processes
from controlplane.kernel.redis_urls import broker_url
from tests.stack import ROOT, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("stack")]


def test_a_busy_worker_gives_its_task_back(redis_server_factory: Callable[..., Any], tmp_path: Path) -> None:
    server = redis_server_factory()
    environ = {**os.environ, "TOY_BROKER": broker_url(server.url)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tests.embedded.toy_celery", "--quiet", "worker", "-Q", "work",
         "-c", "1", "--without-gossip", "--without-mingle"],
        cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        started = tmp_path / "started"
        send = "import sys; from tests.embedded.toy_celery import long; long.delay(sys.argv[1])"
        subprocess.run([sys.executable, "-c", send, str(started)], cwd=ROOT, env=environ, check=True)
        wait_for(started.exists, 30, "the task's start")
        with server.client() as client:
            assert client.llen("work") == 0
            worker.send_signal(signal.SIGTERM)
            time.sleep(2)
            assert worker.poll() is None  # a warm stop waits for the task
            worker.send_signal(signal.SIGQUIT)  # what the supervisor sends next
            assert worker.wait(60) is not None
            assert client.llen("work") == 1
    finally:
        processes.kill_session(worker.pid)
        worker.wait()
