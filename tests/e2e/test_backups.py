"""What an operator does with backups, on the whole stack: run, watch and drill one, restore a part, try out rules."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser import Watch, assert_no_sideways_scroll, login, open_dialog, screenshot
from tests.console.test_in_the_browser import CONTRAST
from tests.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]

HISTORY = "/admin/backups/backuprecord/"
#: The first backup and its drill begin by themselves when a stack starts for the first time.
FIRST_SECONDS = 180
RUN_SECONDS = 120
VECTORS = "zantara-memory-vectors"


def records(stack: Stack) -> list[dict[str, Any]]:
    """The restore points, as the command line tells them."""
    told = stack.manage("backup", "list", "--json")
    assert told.returncode == 0, told.stderr
    found: Any = json.loads(told.stdout)
    return list(found["records"] if isinstance(found, dict) else found)


@pytest.fixture(scope="module")
def backed_up(stack: Stack) -> Iterator[Stack]:
    """The stack once its own first backup is there and nothing of it runs any more."""
    wait_for(
        lambda: records(stack) and all(one["state"] in ("committed", "failed") for one in records(stack)),
        FIRST_SECONDS,
        "the first backup of a new stack",
    )
    return stack


@pytest.fixture
def page(backed_up: Stack, page_factory: Callable[..., Any]) -> Any:
    made = page_factory(permissions=["clipboard-read", "clipboard-write"])
    login(made, backed_up.web_url, "admin", backed_up.admin_password)
    return made


def until_state(page: Any, element: str, state: str, seconds: float) -> None:
    """Wait for the page itself to show the state; it follows what runs without being touched."""
    page.locator(f"{element}[data-state='{state}']").wait_for(state="attached", timeout=seconds * 1000)


def action(page: Any, name: str) -> Any:
    """A button above a page. The theme's icons are words in its links' names, so they are found by address."""
    return page.locator(f"a[href$='/{name}/']").first


def open_newest(stack: Stack, page: Any) -> str:
    """The page of the newest record that was restored in a drill; its name."""
    page.goto(f"{stack.web_url}{HISTORY}?proof=3")
    link = page.locator("#result_list a[href*='/backuprecord/']").first
    name = str(link.inner_text()).split()[0]
    link.click()
    page.wait_for_url(re.compile(r"/backuprecord/\d+/change/"))
    return name


def memory(stack: Stack, replace_by: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The records in the sample service's memory; with ``replace_by`` those are put in their place first."""
    issued = stack.manage("token", "--role", "AI Bridge/Tech Lead", "--subject", "keeper").stdout.strip()

    def ask(path: str, body: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {issued}"}
        request = urllib.request.Request(stack.sample_url + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    if replace_by is not None:
        ask("/vectors/import?mode=replace", b"".join(json.dumps(one).encode() + b"\n" for one in replace_by))
    return [json.loads(line) for line in ask("/vectors/export").splitlines()]


def remembered(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"memory-{number:03}", "text": f"what was said {number}", "metadata": {"number": number},
            "embedding": [float(number % 7) + 1.0, *([0.5] * 383)],
        }
        for number in range(count)
    ]  # fmt: skip


def test_a_backup_is_run_watched_drilled_and_one_part_of_it_restored(backed_up: Stack, page: Any) -> None:
    stack = backed_up
    saved = memory(stack, replace_by=remembered(25))
    assert len(saved) == 25
    page.goto(f"{stack.web_url}{HISTORY}")
    dialog = open_dialog(page, page.get_by_role("link", name="Run a backup now").first)
    dialog.locator("textarea[name=reason]").fill("the browser test")
    dialog.get_by_role("button", name="Run now").click()
    page.wait_for_url(re.compile(r"/backuprecord/\d+/change/"))
    record_url = page.url
    until_state(page, "#zt-record", "committed", RUN_SECONDS)
    page.get_by_text("the browser test").first.wait_for()
    parts = page.locator("[data-artifact]").evaluate_all("all => all.map((one) => one.dataset.artifact)")
    assert {"control-plane-database", "user-data", "logs", VECTORS} <= set(parts)

    open_dialog(page, action(page, "drill")).get_by_role("button", name="Drill").click()
    page.wait_for_url(re.compile(r"/proofrun/\d+/change/"))
    until_state(page, "#zt-proof", "passed", RUN_SECONDS)
    assert page.get_by_text("Not as expected").count() == 0
    page.goto(record_url)
    page.get_by_text("Everything in it was restored in a drill").wait_for()
    assert (
        page.locator("[data-artifact]").count()
        == page.locator("[data-artifact] summary").get_by_text("L3 restored").count()
    )

    part = page.locator(f"[data-artifact='{VECTORS}']")
    part.locator("summary").click()
    part.get_by_role("button", name="Copy the line").click()
    part.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("set -o pipefail; cat ")

    assert len(memory(stack, replace_by=remembered(2))) == 2
    action(page, "restore").click()
    page.wait_for_url(re.compile(r"/backups/restore/\d+/$"))
    ticked = page.locator("input[name=parts]:checked").evaluate_all("all => all.map((one) => one.value)")
    assert VECTORS in ticked
    for value in set(ticked) - {VECTORS}:
        page.locator(f"input[name=parts][value='{value}']").uncheck()
    page.get_by_role("button", name="Look at what would happen").click()
    page.locator("#zt-preview[data-may-begin=yes]").wait_for()
    page.locator("#zt-typed").fill("something else")
    page.locator("#zt-reason").fill("the browser test")
    page.get_by_role("button", name="Restore now").click()
    page.get_by_text("This is not the id of this backup. Nothing was done.").wait_for()
    page.locator("#zt-typed").fill(page.locator("#zt-confirm-form label code").inner_text())
    page.get_by_role("button", name="Restore now").click()
    page.wait_for_url(re.compile(r"/restorerecord/\d+/change/"))
    until_state(page, "#zt-restore", "done", RUN_SECONDS)
    page.get_by_text("It is restored, and the system is well.").wait_for()
    assert memory(stack) == saved
    assert page.locator("#zt-restore .zt-way-done").count() == 9


def test_the_history_follows_what_runs_without_a_reload(backed_up: Stack, page: Any) -> None:
    stack = backed_up
    page.goto(f"{stack.web_url}{HISTORY}")
    page.evaluate("window.sameDocument = true")
    before = page.locator("#result_list tbody").count()
    done = stack.manage("backup", "run", "--plan", "zantara", "--json", timeout_seconds=RUN_SECONDS)
    assert done.returncode in (0, 3), done.stderr  # 3: saved, with warnings
    page.wait_for_function(
        "(count) => document.querySelectorAll('#result_list tbody').length > count", arg=before, timeout=30_000
    )
    newest = page.locator("#result_list tbody").first
    newest.get_by_text("Committed").wait_for(timeout=30_000)
    assert page.locator("#zt-live [data-running]").count() == 0
    assert page.evaluate("window.sameDocument") is True
    assert (
        page.evaluate("Chart.getChart(document.querySelector('canvas[data-trend]')).data.datasets[0].data.length") >= 2
    )
    assert page.locator(".zt-tracker li").count() == 30


def test_rules_are_tried_out_before_they_are_saved(backed_up: Stack, page: Any) -> None:
    stack = backed_up
    page.goto(f"{stack.web_url}/admin/backups/backupplan/")
    page.get_by_role("link", name=re.compile("^zantara")).first.click()
    page.wait_for_url(re.compile(r"/backupplan/\d+/change/"))
    page.locator("input[name=keep_within_days]").fill("0")
    page.locator("input[name=keep_last]").fill("1")
    page.get_by_role("button", name="Show what would be kept and deleted").click()
    page.locator("[data-judged]").wait_for()
    kept = page.locator("#zt-judgements tr[data-keep=yes]")
    assert "the newest" in kept.first.inner_text()
    assert any("last verified" in text for text in kept.all_inner_texts())
    page.locator("input[name=cron]").fill("30 3 * * *")
    page.locator("#zt-runs").get_by_text("At 03:30 (UTC)").wait_for()
    assert page.locator("#zt-runs li").count() == 5
    page.reload()
    assert page.locator("input[name=keep_within_days]").input_value() == "30"
    assert page.locator("input[name=cron]").input_value() == "0 2 * * *"


def test_a_source_and_a_target_are_tested_in_their_dialogs(backed_up: Stack, page: Any) -> None:
    for model in ("backupsource", "storagetarget"):
        page.goto(f"{backed_up.web_url}/admin/backups/{model}/")
        page.locator("#result_list a[href*='/change/']").first.click()
        page.wait_for_url(re.compile(rf"/{model}/\d+/change/"))
        open_dialog(page, action(page, "test")).get_by_role("button", name="Test").click()
        page.locator("#modal-content").get_by_text("It answers.").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_every_page_of_backups_is_readable_at_any_width_and_theme(
    backed_up: Stack, page_factory: Callable[..., Any], watch: Watch, width: str, theme: str
) -> None:
    stack = backed_up
    page = page_factory(width=width, theme=theme)
    login(page, stack.web_url, "admin", stack.admin_password)
    open_newest(stack, page)
    record = page.url.removeprefix(stack.web_url)
    pk = re.search(r"/(\d+)/change/", record)[1]  # type: ignore[index]
    pages = {
        "history": HISTORY,
        "record": record,
        "restore": f"/admin/backups/restore/{pk}/",
        "preview": f"/admin/backups/restore/{pk}/preview/?parts={VECTORS}&minimum_score=80",
        "plans": "/admin/backups/backupplan/",
        "plan": "/admin/backups/backupplan/1/change/",
        "sources": "/admin/backups/backupsource/",
        "source": "/admin/backups/backupsource/1/change/",
        "kinds": "/admin/backups/backupsource/add/",
        "targets": "/admin/backups/storagetarget/",
        "target": "/admin/backups/storagetarget/1/change/",
        "proofs": "/admin/backups/proofrun/",
        "proof": "/admin/backups/proofrun/1/change/",
        "restores": "/admin/backups/restorerecord/",
        "services": "/admin/backups/controlledservice/",
        "health": "/admin/backups/health/",
        "kit": "/admin/backups/recovery-kit/",
    }
    for name, path in pages.items():
        page.goto(f"{stack.web_url}{path}")
        assert page.title().strip().endswith("Zantara control plane"), path
        assert_no_sideways_scroll(page)
        if name in ("record", "restore", "preview", "proof", "health", "kit", "kinds"):
            assert page.evaluate(CONTRAST) == [], path
        screenshot(page, f"backups-{name}-{width}-{theme}", full_page=name != "history")
