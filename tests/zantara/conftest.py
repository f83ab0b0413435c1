"""The sample service as it really runs: granian with two processes, a Redis, and `chroma run`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests import needs
from tests.ports import find_free_port

ROOT = Path(__file__).resolve().parents[2]
TECH_LEAD = "AI Bridge/Tech Lead"


@dataclass
class Running:
    """A server process, and what talks to it."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def worker_pids(self) -> list[int]:
        """Granian's workers, without Python's resource tracker."""
        children = psutil.Process(self.process.pid).children()
        return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """A request on a connection of its own, so that any of the processes may take it."""
        return httpx2.request(method, self.url + path, trust_env=False, verify=False, timeout=20, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.request("GET", path, **options)

    def run(
        self, key: str, params: dict[str, Any] | None = None, *, at: str = "unified", **options: Any
    ) -> httpx2.Response:
        return self.request("POST", f"/zantara.{at}", json={"key": key, "params": params or {}}, **options)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server with everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(8)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(5)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url, trust_env=False, verify=False, timeout=1).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{url} did not come up:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)


@contextlib.contextmanager
def serving(folder: Path, *, workers: int = 2, name: str = "service", **environment: str) -> Iterator[Running]:
    port, log = find_free_port(), folder / f"{name}.log"
    command = [
        sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
        "--workers", str(workers), "--blocking-threads", "8", "--respawn-failed-workers",
        "--workers-kill-timeout", "5", "examples.zantara.wsgi:application",
    ]  # fmt: skip
    inherited = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**inherited, **environment}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/livez", process, log)
        yield Running(process, url, log)
    finally:
        stop(process)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zt-sample-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def chroma(folder: Path) -> Iterator[Running]:
    """A real Chroma server with an empty store."""
    program = Path(sys.executable).with_name("chroma")
    if not program.exists():
        needs.leave_out("chroma is not installed (the extra “embedded”)")
    port, log = find_free_port(), folder / "chroma.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "run", "--path", folder / "chroma", "--host", "127.0.0.1", "--port", str(port)],
            stdout=output, stderr=output, cwd=folder, start_new_session=True,
            env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/api/v2/heartbeat", process, log)
        yield Running(process, url, log)
    finally:
        stop(process)


@pytest.fixture(scope="session")
def _shared_service(folder: Path, chroma: Running) -> Iterator[Running]:
    with serving(
        folder,
        ZANTARA_CHROMA_URL=chroma.url,
        ZANTARA_TRUSTED_PROXIES="127.0.0.1/32",
        ZANTARA_RELEASE="1",
        ZANTARA_LIMITS_TIMEOUT="5s",  # counts are exact on a busy machine too: no decision may fail open
    ) as running:
        yield running


@pytest.fixture(scope="session")
def _shared_other(folder: Path) -> Iterator[Running]:
    with serving(folder, name="other", workers=1, ZANTARA_RELEASE="2") as running:
        yield running


@pytest.fixture
def service(redis_url: str, _shared_service: Running) -> Running:
    """Release 1 in two processes, with Chroma, behind a trusted proxy on 127.0.0.1; Redis is empty."""
    return _shared_service


@pytest.fixture
def other(redis_url: str, _shared_other: Running) -> Running:
    """Release 2 in one process, on the same Redis, without Chroma."""
    return _shared_other


@pytest.fixture
def bearer() -> Callable[..., dict[str, str]]:
    """Headers with a token of a role."""
    from controlplane.identity.tokens import issue

    def make(role: str = TECH_LEAD, subject: str = "tester") -> dict[str, str]:
        return {"Authorization": f"Bearer {issue(subject, role, 600)}"}

    return make
