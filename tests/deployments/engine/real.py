"""A service of real processes behind a real Envoy, ticked by real processes that a test may kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deployments.engine import instances
from deployments.engine.requests import request_deployment
from deployments.engine.tick import tick_service
from deployments.models import Deployment, Instance, Release, ServiceState
from deployments.stages import Stage
from tests.deployments import factories
from tests.deployments.edge.kit import World
from tests.kernel.racing import database_url

STAGES = (Stage(200, 2), Stage(1000, 0))


class Real:
    """``environ`` is what a worker needs beside the suite's own."""

    def __init__(self, folder: Path, envoy: World, name: str) -> None:
        self.folder, self.envoy = folder, envoy
        self.environ = {
            "ZANTARA_EDGE_DIR": str(envoy.edge.settings.folder),
            "ZANTARA_EDGE_ADMIN_SOCKET": str(envoy.edge.settings.admin_socket),
        }
        self.service = factories.make_service(
            name,
            stages=STAGES,
            edge_port=envoy.port,
            target_settings={"command": f"'{sys.executable}' '{{checkout}}/shop.py' {{port}}"},
            min_ready_seconds=0,
            drain_timeout_seconds=2,
            readiness_deadline_seconds=60,
            health_check_timeout_seconds=30,
            inconclusive_policy="promote",
            inconclusive_extensions=0,
        )

    def release(self, version: str, **files: str) -> Release:
        source = self.folder / version
        source.mkdir()
        shutil.copy(Path(__file__).with_name("shop.py"), source / "shop.py")
        for name, text in files.items():
            (source / name).write_text(text)
        return factories.make_release(self.service, version, source=str(source), digest="")

    def ask(self, release: Release, **options: Any) -> Deployment:
        given = {"trigger": "manual", "skips_pipeline": True, **options}
        return request_deployment(self.service, release, **given)

    def until(self, deployment: Deployment, *states: str, seconds: float = 90) -> Deployment:
        """Tick here until it is in one of these."""
        deadline = time.monotonic() + seconds
        while True:
            deployment.refresh_from_db()
            if deployment.state in states:
                return deployment
            said = list(deployment.events.values_list("to_state", "reason"))
            assert time.monotonic() < deadline, (deployment.state, deployment.error, said, self.facts())
            tick_service(self.service.pk)
            time.sleep(0.2)

    def facts(self) -> Any:
        state = ServiceState.objects.get(service=self.service)
        return state.split, state.facts, list(Instance.objects.values("name", "failure", "health", "ready_since"))

    def get(self, path: str = "/") -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.envoy.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()  # the proxy says why in its own

    def running(self, release: Release) -> int:
        found = instances.target_of(self.service).find(self.service.name, self.service.target_settings)
        return sum(one.running and one.release == release.version for one in found)

    def killed_at(self, workers: Workers, step: str) -> None:
        """Ticks until they are killed at that step; fails where they never get there."""
        proof = self.folder / "killed"
        workers.begin(self, kill_at=step, proof=proof)
        code, said = workers.end()
        assert code == -signal.SIGKILL, f"{step} was never reached: {code} {said}"
        assert proof.read_text() == step
        proof.unlink()

    def expire_leases(self) -> None:
        """Fifteen seconds pass for the rows of whoever was killed."""
        from controlplane.kernel import clock

        now = clock.now()
        ServiceState.objects.filter(service=self.service).exclude(lease_owner="").update(lease_expires_at=now)
        Deployment.objects.filter(service=self.service).exclude(lease_owner="").update(lease_expires_at=now)

    @contextmanager
    def load(self, per_second: float = 60) -> Iterator[list[int]]:
        """Requests from a thread, and their answers' statuses; 0 for one without an answer."""
        seen: list[int] = []
        over = threading.Event()

        def ask() -> None:
            while not over.wait(1 / per_second):
                try:
                    seen.append(self.get()[0])
                except OSError:
                    seen.append(0)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        target = instances.target_of(self.service)
        for one in target.find(self.service.name, self.service.target_settings):
            with suppress(ProcessLookupError, KeyError):
                if one.running:
                    os.kill(int(one.handle["pid"]), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(one.running for one in target.find(self.service.name, self.service.target_settings)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Workers:
    """Processes that tick, one at a time; starting one costs a fork."""

    def __init__(self) -> None:
        environ = {**os.environ, "ZANTARA_DATABASE_URL": database_url(), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.deployments.engine.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True,
        )  # fmt: skip

    def begin(self, real: Real, *, once: bool = False, kill_at: str = "", proof: Path | None = None) -> int:
        """Begin to tick; the process's number."""
        environ = dict(real.environ)
        if kill_at:
            environ |= {"ZANTARA_TEST_KILL_AT": kill_at, "ZANTARA_TEST_KILLED": str(proof)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"pk": real.service.pk, "once": once, "environ": environ}) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def end(self) -> tuple[int, str]:
        """Wait for it: its exit code, and what its ticks said."""
        code, said = self._answer()
        return int(code), str(said)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate("", timeout=60)
