"""The whole stack as ``make run`` starts it, on free ports and a temporary data directory.

``stack`` is one running stack for the whole session (mark its tests with ``xdist_group("stack")``, or
every worker starts its own); tests that hurt a stack make theirs with ``Stack``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import find_free_port

ROOT = Path(__file__).resolve().parents[1]
#: The stack's own limits: 60 s from the start of the services, and 45 s for what they deploy.
READY_SECONDS = 150.0


def wait_for(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """The first true answer of ``what``; fails with ``why`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {why}")
        time.sleep(0.05)


def http_status(url: str, timeout_seconds: float = 2.0) -> int | None:
    """The status that a GET of ``url`` is answered with; None without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def doctor_at_leisure(
    ask: Callable[[], subprocess.CompletedProcess[str]],
) -> subprocess.CompletedProcess[str]:
    """What the doctor says. He gives each probe a moment: on a busy machine, where one needs longer, ask him again."""
    for _ in range(5):
        answer = ask()
        if "did not answer within" not in answer.stdout:
            break
    return answer


def processes_of(data_dir: Path) -> list[int]:
    """The living processes that belong to the data directory: by their environment or working directory.

    Redis writes its title over its environment, so the working directory is looked at too.
    """
    marker = b"\0ZANTARA_DATA_DIR=" + os.fsencode(data_dir) + b"\0"
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environ = b"\0" + (folder / "environ").read_bytes() + b"\0"
            cwd = (folder / "cwd").readlink()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX" and (marker in environ or cwd.is_relative_to(data_dir)):
            found.append(int(folder.name))
    return found


class Stack:
    """One ``manage.py up`` (or another command that ends in it), its output and its processes."""

    def __init__(
        self,
        data_dir: Path,
        *,
        environ: dict[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, str(ROOT / "manage.py"), "up"),
        web_port: int | None = None,
        sample_port: int | None = None,
    ) -> None:
        self.data_dir, self._command = data_dir, command
        self.web_port, self.sample_port = web_port or find_free_port(), sample_port or find_free_port()
        self.web_url, self.sample_url = f"http://127.0.0.1:{self.web_port}", f"http://127.0.0.1:{self.sample_port}"
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ZANTARA_", "DJANGO_", "PYTEST_", "MAKE"))},
            "ZANTARA_DATA_DIR": str(data_dir),
            "ZANTARA_WEB_PORT": str(self.web_port),
            "ZANTARA_EDGE_PORT": str(self.sample_port),
            **(environ or {}),
        }
        self._lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._collector: threading.Thread | None = None

    # --- life --------------------------------------------------------------------------------

    def start(self) -> Stack:
        self._lines = []
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip
        self._collector = threading.Thread(target=self._collect, args=(self._process, self._lines), daemon=True)
        self._collector.start()
        return self

    @staticmethod
    def _collect(process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            lines.extend(line.rstrip("\n") for line in iter(process.stdout.readline, ""))

    def wait_ready(self, seconds: float = READY_SECONDS) -> Stack:
        deadline = time.monotonic() + seconds
        while not any(line.startswith("ready") for line in list(self._lines)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail("the stack did not become ready:\n" + "\n".join(self._lines[-60:]))
            time.sleep(0.05)
        return self

    def wait(self, seconds: float) -> int:
        """The exit code; fails if it does not end in time."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the stack did not end within {seconds:g} s:\n" + "\n".join(self._lines[-40:]))
        assert self._collector is not None
        self._collector.join(10)  # it has its last lines
        return code

    def stop(self) -> None:
        """End it, whatever state it is in, and whatever it has left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(60)
        deadline = time.monotonic() + 60
        while left := processes_of(self.data_dir):
            assert time.monotonic() < deadline, f"they do not end: {left}"
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    # --- what it shows -----------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def lines(self) -> list[str]:
        """Everything that it has written so far."""
        return list(self._lines)

    @property
    def admin_password(self) -> str:
        """What the first run told the operator (user ``admin``)."""
        told = [line for line in self._lines if line.startswith("admin password: ")]
        assert len(told) == 1, f"told {len(told)} times"
        return told[0].removeprefix("admin password: ").split()[0]

    @property
    def redis_url(self) -> str:
        from controlplane.kernel.redis_urls import default_redis_url

        return default_redis_url(self.data_dir)

    def children(self) -> dict[str, int]:
        """Name -> pid of the children that run now."""
        found = {}
        for path in (self.data_dir / "run" / "children").glob("[!.]*.json"):
            try:
                found[path.stem] = int(json.loads(path.read_text())["pid"])
            except (OSError, ValueError):
                continue  # just replaced or removed
        return found

    def processes(self) -> list[int]:
        return processes_of(self.data_dir)

    def manage(self, *arguments: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """``manage.py`` beside the running stack, in its environment."""
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=timeout_seconds, check=False,
        )  # fmt: skip


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """One running stack for all tests of a folder, which leave it as they found it; the tests after them have the
    machine to themselves again."""
    with tempfile.TemporaryDirectory(prefix="zt-stack-", ignore_cleanup_errors=True) as folder:
        # A starved machine must not turn decisions over to the profiles' fail mode, and one user logs in for all tests.
        calm = {"ZANTARA_LIMITS_TIMEOUT": "2s", "ZANTARA_LOGIN_RATE": "300/5m"}
        running = Stack(Path(folder) / "var", environ=calm).start()
        try:
            yield running.wait_ready()
        finally:
            running.stop()
