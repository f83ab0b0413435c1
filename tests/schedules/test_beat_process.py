"""A real beat and a real worker, on a database file and a Redis of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stopwatch import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.faults


class Installation:
    """A data directory with a migrated database; processes of it are stopped after the test."""

    def __init__(self, folder: Path, redis_server: Any) -> None:
        self.folder, self.redis = folder, redis_server
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ZANTARA_")}
        self.environment = {
            **kept,
            "ZANTARA_DATA_DIR": str(folder),
            "ZANTARA_REDIS_URL": redis_server.url,
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.run(
            "from controlplane.kernel.local_secrets import ensure_local_secrets; ensure_local_secrets()", setup=False
        )
        self.run("from django.core.management import call_command; call_command('migrate', verbosity=0)")

    def run(self, code: str, *, setup: bool = True) -> str:
        """Run code as another process of this installation does, and return what it prints."""
        head = "import django; django.setup();" if setup else ""
        done = subprocess.run(
            [sys.executable, "-c", head + code], cwd=ROOT, env=self.environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "controlplane", *arguments]
        with (self.folder / f"{arguments[0]}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)

    def stop(self) -> None:
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("*.log"))


@pytest.fixture
def installation(tmp_path: Path, redis_server_factory: Callable[..., Any]) -> Iterator[Installation]:
    made = Installation(tmp_path, redis_server_factory())
    yield made
    made.stop()


def wait_for(condition: Callable[[], object], seconds: float, what: str, installation: Installation) -> float:
    """The seconds it took; fails with the logs of the processes."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            pytest.fail(f"{what} within {seconds} s\n{installation.logs()}")
        time.sleep(0.1)
    return time.monotonic() - started


MAKE = """
from django_celery_beat.models import PeriodicTask
from controlplane.schedules import rows
PeriodicTask.objects.create(name="tick", task="controlplane.schedules.heartbeat", queue="probe",
    interval=rows.interval_row(1, "seconds"))
"""
SEEN_BY_BEAT = "DatabaseScheduler: Schedule changed."
SWITCH = """
from django_celery_beat.models import PeriodicTask
task = PeriodicTask.objects.get(name="tick"); task.enabled = {enabled}; task.save()
"""


def test_an_edit_reaches_a_running_beat_within_seconds_and_disabling_stops_it(installation: Installation) -> None:
    queue = installation.redis.client()
    installation.start("beat", "--loglevel", "info", "--pidfile", "")
    wait_for(lambda: "beat: Starting" in installation.logs(), 60, "beat starts", installation)
    assert queue.llen("probe") == 0
    installation.run(MAKE)
    with Stopwatch() as watch:
        wait_for(lambda: queue.llen("probe") >= 2, 60, "two messages arrive", installation)
    assert watch.seconds < 15  # at most 5 s until beat looks, then one each second
    headers = json.loads(queue.lindex("probe", 0))["headers"]
    assert (headers["periodic_task_name"], headers["celery_beat_task"]) == ("tick", True)

    # Written back at once, so that a beat that is killed now does not send again what it has sent.
    noted = "from django_celery_beat.models import PeriodicTask; print(PeriodicTask.objects.get().total_run_count > 0)"
    assert installation.run(noted) == "True"

    looked = installation.logs().count(SEEN_BY_BEAT)
    installation.run(SWITCH.format(enabled=False))
    with Stopwatch() as watch:
        wait_for(lambda: installation.logs().count(SEEN_BY_BEAT) > looked, 60, "beat sees the edit", installation)
    assert watch.seconds < 15
    stopped_at = queue.llen("probe")
    time.sleep(4)
    assert queue.llen("probe") == stopped_at

    installation.run(SWITCH.format(enabled=True))
    wait_for(lambda: queue.llen("probe") > stopped_at, 60, "enabling starts it again", installation)


READ = """
from controlplane.schedules.heartbeat import last_heartbeat
from controlplane.schedules.store import last_runs
run = last_runs(["zantara.heartbeat"]).get("zantara.heartbeat")
print(bool(last_heartbeat()), run and (run.state, run.duration_seconds is not None, run.triggered_by))
"""


def test_the_heartbeat_goes_through_beat_broker_and_the_engine_worker_and_its_run_is_noted(
    installation: Installation,
) -> None:
    installation.run("from controlplane.schedules.reconcile import reconcile_schedules; reconcile_schedules()")
    assert installation.run(READ) == "False None"
    installation.start("worker", "-Q", "engine", "-c", "1", "--without-gossip", "--without-mingle", "-l", "info")
    send = (
        "from django_celery_beat.models import PeriodicTask; from controlplane.schedules.running import run_now;"
        "run_now(PeriodicTask.objects.get(name='zantara.heartbeat'), actor='{actor}')"
    )
    installation.run(send.format(actor="alice"))
    key = "zantara:heartbeat:beat"
    wait_for(lambda: installation.redis.client().get(key), 60, "the heartbeat arrives", installation)
    wait_for(lambda: installation.run(READ) == "True ('success', True, 'alice')", 60, "the run is noted", installation)
    # From beat itself: a row enabled now is due a period later, so give it a short one.
    installation.run(
        "from django_celery_beat.models import PeriodicTask; from controlplane.schedules import rows;"
        "t = PeriodicTask.objects.get(name='zantara.heartbeat'); t.interval = rows.interval_row(1, 'seconds'); t.save()"
    )
    installation.redis.client().delete(key)
    installation.start("beat", "--loglevel", "info", "--pidfile", "")
    wait_for(lambda: installation.redis.client().get(key), 60, "beat's own heartbeat arrives", installation)
    wait_for(
        lambda: installation.run(READ) == "True ('success', True, '')", 60, "no user is noted for beat", installation
    )
