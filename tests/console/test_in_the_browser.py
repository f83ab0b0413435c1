"""The console as a person meets it: desktop and phone, light and dark, with the keyboard, and with Redis away."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import PASSWORD, Served, Watch, assert_no_sideways_scroll, login, screenshot

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("browser")]

PAGES = {
    "start": "/admin/",
    "system": "/admin/system/",
    "users": "/admin/auth/user/",
    "user": "/admin/auth/user/1/change/",
    "user-add": "/admin/auth/user/add/",
    "group": "/admin/auth/group/1/change/",
    "docs": "/admin/docs/",
    "profiles": "/admin/ratelimits/ratelimitprofile/",
    "history": "/admin/ratelimits/ratelimitprofile/1/history/",
    "schedules": "/admin/django_celery_beat/periodictask/",
}

#: The least contrast of text against what is behind it, of every visible piece of our own pages (WCAG 2.2, 1.4.3).
CONTRAST = """
() => {
  const parse = (colour) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const draw = canvas.getContext("2d", { willReadFrequently: true });
    draw.fillStyle = colour;
    draw.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = draw.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(parse(getComputedStyle(e).backgroundColor));
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (c) => {
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = [];
  for (const element of document.querySelectorAll("#content *")) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || !element.checkVisibility() || element.className.includes?.("material-symbols")) continue;
    const back = behind(element);
    const front = over(parse(getComputedStyle(element).color), back);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(1)}: ${element.textContent.trim().slice(0, 40)}`);
  }
  return poor;
}
"""

#: Whether what the palette offers first, and knows that it offers, has this title.
FOUND = """
(title) => {
  const { items, totalItems } = Alpine.$data(document.getElementById("search-input-command"));
  return totalItems > 0 && items[0].isConnected && items[0].querySelector("a")?.dataset.title === title;
}
"""


@pytest.fixture(scope="module")
def lived_in(console: Served) -> Served:
    """The console with a profile that was changed twice."""
    console.run_python(
        "import django; django.setup()\n"
        "from ratelimits.models import RateLimitProfile as P\n"
        "for requests in (700, 800):\n"
        "    row = P.objects.get(pk=1); row.requests = requests; row.save()\n"
    )
    return console


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_every_page_shows_without_errors_and_fits(
    lived_in: Served, page_factory: Callable[..., Any], width: str, theme: str
) -> None:
    page = page_factory(width=width, theme=theme)
    page.goto(f"{lived_in.url}/admin/login/")
    screenshot(page, f"console-login-{width}-{theme}")
    assert_no_sideways_scroll(page)
    login(page, lived_in.url, "admin", PASSWORD)
    for name, path in PAGES.items():
        page.goto(f"{lived_in.url}{path}")
        assert page.title().strip().endswith("Zantara control plane"), path
        assert_no_sideways_scroll(page)
        assert page.evaluate("document.documentElement.classList.contains('dark')") is (theme == "dark")
        if name in ("start", "system", "docs", "history"):
            assert page.evaluate(CONTRAST) == [], path
        screenshot(page, f"console-{name}-{width}-{theme}", full_page=True)


def test_a_version_is_restored_with_one_click_and_a_question(
    lived_in: Served, page_factory: Callable[..., Any]
) -> None:
    page = page_factory()
    login(page, lived_in.url, "admin", PASSWORD)
    page.goto(f"{lived_in.url}{PAGES['history']}")
    before = page.locator(".zt-history > li").count()
    questions: list[str] = []

    def answer(dialog: Any) -> None:
        questions.append(dialog.message)
        (dialog.dismiss if len(questions) == 1 else dialog.accept)()

    page.on("dialog", answer)
    oldest = page.locator(".zt-history > li").last.get_by_role("button", name="Revert to this")
    oldest.click()
    assert page.locator(".zt-history > li").count() == before
    oldest.click()
    page.locator(".zt-history > li").nth(before).wait_for()
    assert len(questions) == 2
    assert questions[0].startswith("Save this row as it was at ")
    newest = page.locator(".zt-history > li").first
    assert "admin" in newest.inner_text()
    assert "reverted to" in newest.inner_text()
    assert "800 → 1000" in " ".join(newest.inner_text().split())


def test_the_palette_is_opened_used_and_left_with_the_keyboard_alone(
    lived_in: Served, page_factory: Callable[..., Any]
) -> None:
    page = page_factory()
    login(page, lived_in.url, "admin", PASSWORD)
    page.keyboard.press("Control+k")
    field = page.locator("#search-input-command")
    field.wait_for(state="visible")
    page.wait_for_function("document.activeElement.id === 'search-input-command'")
    page.keyboard.type("syst", delay=20)
    page.wait_for_function(FOUND, arg="System")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{lived_in.url}/admin/system/")


def test_the_keyboard_reaches_the_menu_and_its_focus_is_seen(
    lived_in: Served, page_factory: Callable[..., Any]
) -> None:
    page = page_factory()
    login(page, lived_in.url, "admin", PASSWORD)
    reached: dict[str, str] = {}
    for _ in range(30):
        page.keyboard.press("Tab")
        label, outline = page.evaluate(
            "[document.activeElement.innerText.trim(), getComputedStyle(document.activeElement).outlineStyle]"
        )
        if len(label) < 60:  # the page itself, once the last element is passed, is no element
            reached[" ".join(label.split())] = outline
    for name in ("Users", "System", "admin"):
        found = [outline for label, outline in reached.items() if name in label]
        assert found == ["solid"] * len(found)
        assert found, f"{name} is not reached by keyboard; reached: {sorted(reached)}"


def test_the_start_page_follows_what_happens_and_says_when_nobody_answers(
    lived_in: Served, page_factory: Callable[..., Any], watch: Watch
) -> None:
    page = page_factory()
    login(page, lived_in.url, "admin", PASSWORD)
    row = page.locator("#live li", has=page.get_by_text("Redis", exact=True))
    row.get_by_text("OK").wait_for()
    lived_in.redis.send_signal(signal.SIGSTOP)
    try:
        row.get_by_text("answers in").wait_for(state="hidden")
        assert page.locator("#live .zt-rows").first.locator("li").first.inner_text() != ""
        page.goto(f"{lived_in.url}/admin/system/")
        page.get_by_text("not reachable").first.wait_for()
    finally:
        lived_in.redis.send_signal(signal.SIGCONT)
    page.goto(f"{lived_in.url}/admin/")
    row.get_by_text("OK").wait_for()
    watch.allow(r"start/live|ERR_INTERNET_DISCONNECTED|console: (Failed to load|htmx:)")
    page.context.set_offline(True)
    page.get_by_text("The control plane does not answer.").wait_for(state="visible")
    page.context.set_offline(False)
    page.get_by_text("The control plane does not answer.").wait_for(state="hidden")


def test_a_session_that_ended_sends_the_start_page_to_the_login(
    lived_in: Served, page_factory: Callable[..., Any]
) -> None:
    page = page_factory()
    login(page, lived_in.url, "admin", PASSWORD)
    page.context.clear_cookies()
    page.wait_for_url(f"{lived_in.url}/admin/login/?next=%2Fadmin%2F")


def test_the_report_is_copied(lived_in: Served, page_factory: Callable[..., Any]) -> None:
    page = page_factory(permissions=["clipboard-read", "clipboard-write"])
    login(page, lived_in.url, "admin", PASSWORD)
    page.goto(f"{lived_in.url}/admin/system/")
    page.get_by_role("button", name="Copy as text").click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("Versions:\n  Zantara control plane: ")


def test_a_request_to_another_host_is_noticed(lived_in: Served, page_factory: Callable[..., Any], watch: Watch) -> None:
    page = page_factory()
    page.goto(f"{lived_in.url}/admin/login/")
    page.evaluate("fetch('http://localhost:9/x').catch(() => null)")
    assert any(problem.startswith("outside: http://localhost:9/x") for problem in watch.unexpected())
    watch.allow(r"http://localhost:9/x|console: Failed to load resource: net::ERR_")
