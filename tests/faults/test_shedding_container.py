"""A container sheds by its own memory limit, while the machine has plenty; page cache alone sheds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.identity.tokens import issue
from ratelimits.shedding.policy import BUILT_IN
from tests.docker_engine import IMAGE, INTERPRETER, MOUNTS, Engine

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("docker")]

ROOT = Path(__file__).resolve().parents[2]
LIMIT_MB = 512
TECH_LEAD = "AI Bridge/Tech Lead"

#: Runs inside the container, on its loopback.
ASK = """
import json, sys, urllib.request, urllib.error
answers = []
for method, path, headers, body in json.load(sys.stdin):
    request = urllib.request.Request("http://127.0.0.1:3000" + path, method=method, headers=headers)
    try:
        answer = urllib.request.urlopen(request, body.encode() if body else None, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    answers.append([answer.status, {n.lower(): v for n, v in answer.headers.items()}, answer.read().decode()])
print(json.dumps(answers))
"""


@dataclass
class Container:
    engine: Engine
    name: str

    def ask(self, method: str, path: str, *, role: str = "", body: Any = None, times: int = 1) -> list[Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if role:
            headers["Authorization"] = f"Bearer {issue('tester', role, 600)}"
        question = [method, path, headers, json.dumps(body) if body is not None else ""]
        text = self.engine.docker("exec", "-i", self.name, "python3", "-c", ASK, stdin=json.dumps([question] * times))
        answers: list[Any] = json.loads(text)
        return answers

    def statuses(self, path: str, *, role: str = "", times: int = 20) -> set[int]:
        return {status for status, _, _ in self.ask("GET", path, role=role, times=times)}

    def memory(self) -> tuple[int, int, int]:
        """Limit, usage with the page cache in it, and page cache, in bytes, as the group's own files say."""
        v1, v2 = "/sys/fs/cgroup/memory/memory.", "/sys/fs/cgroup/memory."
        script = f"if [ -e {v1}stat ]; then cat {v1}limit_in_bytes {v1}usage_in_bytes; grep -E '^cache ' {v1}stat; "
        script += f"else cat {v2}max {v2}current; grep -E '^file ' {v2}stat; fi"
        limit, usage, _, cache = self.engine.docker("exec", self.name, "sh", "-c", script).split()
        return int(limit), int(usage), int(cache)


@pytest.fixture
def container(docker_engine: Engine, redis_server_factory: Any) -> Iterator[Container]:
    """The sample service in a container with a memory limit, and nothing but Redis's socket shared."""
    redis = redis_server_factory()
    name = f"sample-{os.getpid()}"
    environment = {
        "DJANGO_SETTINGS_MODULE": "examples.zantara.settings",
        "PYTHONPATH": "/app:/packages",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ZANTARA_DATA_DIR": "/tmp/data",
        "ZANTARA_REDIS_URL": "unix:///redis/redis.sock?db=0",
        "ZANTARA_JWT_SECRET": _secret("jwt_secret"),
        "ZANTARA_LIMITS_SECRET": _secret("limits_secret"),
    }
    docker_engine.docker(
        "run", "-d", "--name", name, "--network=none", f"--memory={LIMIT_MB}m", f"--memory-swap={LIMIT_MB}m",
        "-v", f"{ROOT}:/app:ro", "-v", f"{redis.folder}:/redis", "-w", "/app",
        *(part for mount in MOUNTS for part in ("-v", mount)),
        *(part for variable, value in environment.items() for part in ("-e", f"{variable}={value}")),
        IMAGE, INTERPRETER, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "3000",
        "--workers", "1", "--blocking-threads", "8", "examples.zantara.wsgi:application",
    )  # fmt: skip
    made = Container(docker_engine, name)
    try:
        _wait_for(made)
        yield made
    finally:
        docker_engine.docker("rm", "-f", name, check=False)


def _secret(name: str) -> str:
    from controlplane.kernel.local_secrets import secret_file

    path = secret_file(name)
    assert path is not None
    return path.read_text().strip()


def _wait_for(container: Container) -> None:
    deadline = time.monotonic() + 150
    while True:
        try:
            if container.statuses("/livez", times=1) == {200}:
                return
        except (AssertionError, subprocess.TimeoutExpired):
            if time.monotonic() > deadline:
                log = container.engine.docker("logs", container.name, check=False)
                raise RuntimeError(f"the container does not answer: {log[-3000:]}") from None
        time.sleep(0.3)


def _until(container: Container, expected: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while container.statuses("/zantara.unified", times=1) != {expected}:
        assert time.monotonic() < deadline, f"no {expected} within {seconds} s"
        time.sleep(0.2)


def test_a_container_sheds_by_its_own_limit_and_page_cache_alone_does_not(container: Container) -> None:
    # page cache: a file larger than the limit, written and read twice
    container.engine.docker(
        "exec", container.name, "sh", "-c",
        "dd if=/dev/zero of=/var/big bs=1M count=700 2>/dev/null && sync && cat /var/big > /dev/null "
        "&& tail -c 300000000 /var/big > /dev/null && tail -c 300000000 /var/big > /dev/null",
        timeout=120,
    )  # fmt: skip
    limit, usage, cache = container.memory()
    assert limit == LIMIT_MB * 2**20
    assert usage > 0.9 * limit, "the page cache was to fill the container"
    assert cache > 0.5 * limit
    time.sleep(0.6)  # two samples
    assert container.statuses("/zantara.unified") == {200}

    # memory in use: of the container, while the machine has plenty whatever else runs on it
    deadline = time.monotonic() + 300
    while psutil.virtual_memory().percent >= 75:
        assert time.monotonic() < deadline, "the machine itself was to have plenty"
        time.sleep(1)
    leak_mb = int((0.94 * limit - (usage - cache)) / 2**20)
    (order,) = container.ask("POST", "/_chaos", body={"leak_mb": leak_mb})
    assert order[0] == 200, order
    _until(container, 503)
    assert psutil.virtual_memory().percent < BUILT_IN.memory_limit_percent, "the machine itself is not out of memory"
    for status, headers, body in container.ask("GET", "/zantara.unified", role="CEO", times=5):
        assert (status, headers["retry-after"], headers["content-type"]) == (503, "30", "application/json")
        assert body == (
            '{"error": "SYSTEM_OVERLOADED", "message": "System under high load, please try again later", '
            '"retryAfter": 30}'
        )
    assert container.statuses("/zantara.unified", role=TECH_LEAD) == {200}
    assert container.statuses("/livez", times=3) == {200}

    (order,) = container.ask("DELETE", "/_chaos")
    assert order[0] == 200, order
    _until(container, 200)
