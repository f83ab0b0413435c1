"""What real processes print: every line of a Celery worker and of granian comes in our form."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controlplane.kernel.logs import logging_config

ROOT = Path(__file__).parents[2]


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=file, cwd=ROOT, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    deadline = time.monotonic() + 40
    while not (found := what()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found


def events(log: Path) -> list[dict[str, Any]]:
    complete = log.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in complete.splitlines()]


@pytest.fixture
def environment(redis_url: str) -> dict[str, str]:
    return {
        **os.environ, "ZANTARA_LOG_FORMAT": "json", "ZANTARA_LOG_LEVEL": "INFO", "PYTHONWARNINGS": "ignore",
        "DJANGO_SETTINGS_MODULE": "controlplane.settings",
    }  # fmt: skip


def test_every_line_of_a_worker_is_json_and_a_tasks_lines_carry_its_id(
    environment: dict[str, str], tmp_path: Path
) -> None:
    from controlplane.celery import app

    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "controlplane.celery", "worker", "--pool", "solo",
               "--without-gossip", "--without-mingle", "-Q", "work"]  # fmt: skip
    # at DEBUG, where the routine of a task that went well is not left out
    with running(command, log, environment | {"ZANTARA_LOG_LEVEL": "DEBUG"}) as process:
        sent = app.send_task("celery.accumulate", args=[1, 2], queue="work")
        wait_for(lambda: [e for e in events(log) if e["event"] == "task_succeeded"], process, log)
    about = [event for event in events(log) if event.get("task_id") == sent.id and event["level"] == "info"]
    assert [event["event"] for event in about] == ["task_started", "task_succeeded"]


def test_every_line_of_granian_and_of_a_request_is_json_and_the_token_in_its_address_is_masked(
    environment: dict[str, str], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    log, config, port = tmp_path / "web.log", tmp_path / "logging.json", free_port()
    config.write_text(json.dumps(logging_config("json", "INFO")))
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
               "--log-config", str(config), "controlplane.wsgi:application"]  # fmt: skip

    def answer() -> int | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/nowhere?token=hunter2", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    with running(command, log, environment) as process:
        assert wait_for(answer, process, log) == 404
        finished = wait_for(lambda: [e for e in events(log) if e["event"] == "request_finished"], process, log)
    assert (finished[0]["code"], finished[0]["request"], finished[0]["level"]) == (
        404,
        "GET /nowhere?token=***",
        "info",
    )
    assert len(finished[0]["request_id"]) == 36
    assert "hunter2" not in log.read_text()
    assert {"_granian"} <= {event["logger"] for event in events(log)}
