"""A real browser against a real server in a process of its own.

A test module takes what it needs with ``from tests.browser import *``-style imports in its conftest:
``browser`` (one Chromium per module), ``page_factory``, ``console`` (a served control plane with three
people), ``login`` and ``screenshot``. Every page made by ``page_factory`` is watched: an error in the
browser's console, a failed request, an answer of 400 or more, and any request to another host than
127.0.0.1 fails the test when it ends.

Playwright's synchronous interface keeps an event loop in the test's thread, in which Django refuses to
touch the database. So browser tests look at a server process, never at ``db``, and the browser ends
with its module.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import harness
from tests.ports import find_free_port

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Chromium without a window, for the tests of one module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()


@dataclass
class Watch:
    """What went wrong in a page. ``allow`` takes patterns of problems that a test provokes on purpose."""

    problems: list[str] = field(default_factory=list)
    allowed: list[re.Pattern[str]] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        self.allowed.append(re.compile(pattern))

    def note(self, problem: str) -> None:
        self.problems.append(problem)

    def unexpected(self) -> list[str]:
        return [problem for problem in self.problems if not any(p.search(problem) for p in self.allowed)]

    def attach(self, context: Any) -> None:
        context.on("console", lambda message: message.type == "error" and self.note(f"console: {message.text}"))
        context.on("weberror", lambda error: self.note(f"script: {error.error}"))
        context.on("request", self._on_request)
        context.on("requestfailed", self._on_failure)
        context.on(
            "response", lambda answer: answer.status >= 400 and self.note(f"answer: {answer.status} {answer.url}")
        )

    def _on_request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.hostname != "127.0.0.1":
            self.note(f"outside: {request.url}")

    def _on_failure(self, request: Any) -> None:
        # Leaving a page cuts off what it was loading: that is the browser's doing.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.note(f"failed: {request.url} {request.failure}")


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def page_factory(browser: Any, watch: Watch) -> Iterator[Callable[..., Any]]:
    """Make a page: ``page_factory(width="desktop"|"phone", theme="light"|"dark")``."""
    contexts: list[Any] = []

    def make(width: str = "desktop", theme: str = "light", **options: Any) -> Any:
        context = browser.new_context(
            viewport=SIZES[width], color_scheme=theme, reduced_motion="reduce", has_touch=width == "phone", **options
        )
        context.set_default_timeout(30_000)
        watch.attach(context)
        contexts.append(context)
        return context.new_page()

    yield make
    for context in contexts:
        context.close()
    assert watch.unexpected() == []


def login(page: Any, base_url: str, user: str, password: str) -> None:
    """Sign in through the form and wait for the start page."""
    page.goto(f"{base_url}/admin/login/?next=/admin/")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.click("#login-form button[type=submit]")
    page.wait_for_url(f"{base_url}/admin/")


def open_dialog(page: Any, opener: Any) -> Any:
    """Press what opens a dialog, and give the dialog once it is there. A press before the page's scripts run, or on a
    live part that is replaced at that moment, opens nothing: it is repeated, as a person would."""
    from playwright.sync_api import TimeoutError as NotYet

    page.wait_for_function("document.readyState === 'complete' && window.htmx && window.Alpine")
    dialog = page.locator("#modal-content")
    for _ in range(3):
        opener.click()
        with contextlib.suppress(NotYet):
            dialog.locator("form").first.wait_for(timeout=10_000)
            break
    return dialog


def screenshot(page: Any, name: str, *, full_page: bool = False) -> Path:
    """A picture: into ``docs/images`` with ZANTARA_TEST_UPDATE_SCREENSHOTS=1, else into ``test-results``."""
    update = os.environ.get("ZANTARA_TEST_UPDATE_SCREENSHOTS") == "1"
    folder = ROOT / "docs" / "images" if update else ROOT / "test-results"
    folder.mkdir(parents=True, exist_ok=True)
    page.evaluate("document.fonts.ready.then(() => true)")
    path = folder / f"{name}.png"
    page.screenshot(path=path, full_page=full_page)
    return path


def assert_no_sideways_scroll(page: Any) -> None:
    """The page is not wider than the window."""
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1], f"{page.url} is {widths[0]} px wide in a window of {widths[1]} px"


# --- a served control plane --------------------------------------------------------------------

_PEOPLE = f"""
import django; django.setup()
from django.contrib.auth.models import User, Group
admin = User.objects.get(username="admin")
admin.set_password("{PASSWORD}")
admin.save()
for name in ("Viewer", "Operator", "Administrator"):
    person = User.objects.create_user(name.lower(), "", "{PASSWORD}", is_staff=True)
    person.groups.add(Group.objects.get(name=name))
"""


@dataclass
class Served:
    """A control plane on a free port, with its own data directory, database and Redis.

    People: ``admin`` (superuser), ``viewer``, ``operator``, ``administrator``; all with ``PASSWORD``.
    """

    url: str
    folder: Path
    environment: dict[str, str]
    redis: subprocess.Popen[bytes]

    def run_python(self, code: str) -> str:
        """Run Python in the server's environment (``django.setup()`` is yours to call)."""
        return self._run("-c", code)

    def manage(self, *arguments: str) -> str:
        """Run a management command there."""
        return self._run("manage.py", *arguments)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def console() -> Iterator[Served]:
    """A control plane under granian, for the tests of one module."""
    folder = Path(tempfile.mkdtemp(prefix="zt-console-"))
    redis, socket_path = harness.start_redis(folder)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ZANTARA_", "COVERAGE", "PYTEST"))}
    environment |= {
        "ZANTARA_DATA_DIR": str(folder),
        "ZANTARA_REDIS_URL": f"unix://{socket_path}?db=0",
        "ZANTARA_LOG_LEVEL": "WARNING",
        "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        "PYTHONPATH": str(ROOT),
    }
    port = find_free_port()
    served = Served(f"http://127.0.0.1:{port}", folder, environment, redis)
    server: subprocess.Popen[bytes] | None = None
    log = (folder / "server.log").open("wb")
    try:
        served.manage("bootstrap")
        served.run_python(_PEOPLE)
        server = subprocess.Popen(
            [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
             "--workers", "1", "--blocking-threads", "8", "--no-ws", "--log-level", "warning",
             "controlplane.wsgi:application"],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        _wait_for(f"{served.url}/livez", server, folder / "server.log")
        yield served
    finally:
        for process in (server, redis):
            if process is not None:
                _end(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{log.read_text()}") from None
            time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(5)
