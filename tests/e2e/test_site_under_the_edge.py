"""docs/put-a-service-under-the-edge.md, followed to the letter: its table is typed in, its commands are run."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.browser import login
from tests.deployments.on_stack import OnStack
from tests.stack import ROOT, Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]

PAGE = (ROOT / "docs" / "put-a-service-under-the-edge.md").read_text()
#: What the page writes, and what this test must put in its place.
MANAGE, PORT, PLACE = ".venv/bin/python manage.py ", "3100", "/srv"


def part(number: int) -> str:
    """The numbered part of the page."""
    return PAGE.split(f"\n## {number}. ")[1].split("\n## ")[0]


def commands(text: str) -> list[str]:
    """What is typed, without what is answered."""
    return [line[2:] for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
            for line in block.splitlines() if line.startswith("$ ")]  # fmt: skip


class Reader:
    """Somebody who does what the page says, in a directory and at a port of his own."""

    def __init__(self, stack: Stack, page: Any, place: Path) -> None:
        self.stack, self.page, self.place = stack, page, place
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])

    def own(self, text: str) -> str:
        return text.replace(PLACE, str(self.place)).replace(PORT, self.port)

    def type_commands(self, number: int) -> list[str]:
        """Run the commands of a part, but for what is typed where nobody calls; the outputs."""
        said = []
        for command in commands(part(number).split("With few requests")[0]):
            own = self.own(command)
            if own.startswith(MANAGE):
                done = self.stack.manage(*shlex.split(own.removeprefix(MANAGE)), timeout_seconds=180)
            else:
                done = subprocess.run(["sh", "-c", own], capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, f"{own}\n{done.stdout}\n{done.stderr}"
            said.append(done.stdout.strip())
        return said

    def open(self, path: str) -> None:
        self.page.goto(f"{self.stack.web_url}{path}")

    def fill_in(self, number: int, which: int) -> None:
        """Type in a table of a part: each field by its label, as it is shown."""
        tables = re.findall(r"\| field \| value \|\n\|---\|---\|\n((?:\|.*\n)+)", part(number))
        for label, value in re.findall(r"^\| (.+?) \| (.+?) \|$", tables[which], re.MULTILINE):
            self.fill_in_one(label, "" if value.startswith("empty") else self.own(value.strip("`")))

    def fill_in_one(self, label: str, value: str) -> None:
        if label in ("Runs as", "Sources"):
            self.page.get_by_label(value, exact=True).check()
            return
        named = re.compile(rf"^\s*{re.escape(label)}\s*\*?\s*$")
        control = self.page.get_by_label(named).locator("visible=true").first
        if control.evaluate("e => e.tagName") == "SELECT":
            wanted = [text for text in control.locator("option").all_inner_texts() if re.search(rf"\b{value}\b", text)]
            control.select_option(label=wanted[0])
        else:
            control.fill(value)

    def save(self) -> None:
        self.page.locator("button[name=_save], input[name=_save]").first.click()
        self.page.wait_for_url(re.compile(r"/(service|backupsource|backupplan)/(\?|$)"))


@pytest.fixture
def reader(stack: Stack, page_factory: Callable[..., Any], tmp_path: Path) -> Iterator[Reader]:
    needs.command("busybox", package="busybox")
    needs.command("curl", package="curl")
    on = OnStack(stack)
    wait_for(lambda: on.rows("SELECT 1 FROM deployments_deployment WHERE state = 'succeeded'"), 150, "the first")
    page = page_factory()
    login(page, stack.web_url, "admin", stack.admin_password)
    yield Reader(stack, page, tmp_path)
    on.python(
        "from deployments.models import Service\n"
        "site = Service.objects.filter(name='site').first()\n"
        "if site is not None: site.instances = 0; site.save()\n"
    )


@contextlib.contextmanager
def callers(url: str) -> Iterator[list[str]]:
    """Somebody who asks again and again: there is something to judge by. The answers, or what went wrong."""
    over, heard = threading.Event(), list[str]()

    def ask() -> None:
        while not over.wait(0.02):
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    heard.append(answer.read().decode().strip())
            except OSError as error:
                heard.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        over.set()
        for thread in threads:
            thread.join(10)


def test_a_static_site_is_deployed_backed_up_and_taken_back_by_following_the_page(reader: Reader) -> None:
    reader.type_commands(1)
    reader.open("/admin/deployments/service/add/")
    reader.fill_in(2, 0)
    reader.save()
    for number, path in enumerate(("backupsource/add/?kind=files", "backupplan/add/")):
        reader.open(f"/admin/backups/{path}")
        reader.fill_in(3, number)
        reader.save()
    reader.open("/admin/deployments/service/")
    reader.page.get_by_role("link", name=re.compile("^site")).first.click()
    reader.page.wait_for_url(re.compile(r"/service/\d+/change/"))
    reader.fill_in(3, 2)
    for number, seconds in enumerate(("4", "4")):  # the page has the patience of a person: 5 and 10 minutes
        reader.page.locator(f"input[name=stages-{number}-bake_seconds]").fill(seconds)
    reader.save()

    *_, served = reader.type_commands(4)
    assert served == "<h1>one</h1>"
    with callers(f"http://127.0.0.1:{reader.port}/") as heard:
        reader.type_commands(5)
    assert set(heard) == {"<h1>one</h1>", "<h1>two</h1>"}, "no request failed"
    on = OnStack(reader.stack)
    of_the_site = "FROM deployments_deployment d JOIN deployments_service s ON s.id = service_id WHERE s.name = 'site'"
    assert on.rows(f"SELECT d.state, d.trigger {of_the_site}") == [("succeeded", "manual")] * 2
    proven = "FROM backups_backuprecord r JOIN backups_artifact a ON a.record_id = r.id WHERE r.plan_name = 'site'"
    assert on.rows(f"SELECT r.state, r.trigger, a.l1_at IS NOT NULL {proven}") == [("committed", "deployment", 1)] * 2
    *_, served = reader.type_commands(6)
    assert served == "<h1>one</h1>"
