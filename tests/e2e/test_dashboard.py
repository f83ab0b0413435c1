"""The start page beside a running stack: its figures come, move under load, and fit any screen."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import needs
from tests.browser import assert_no_sideways_scroll, login, screenshot
from tests.console.test_in_the_browser import CONTRAST
from tests.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]

#: The page promises its first figures within 30 s; a rate needs two samples, 15 s apart.
FIRST_FIGURES_SECONDS = 60
CHARTS = ("requests", "errors", "response-time", "refused", "connections", "memory")

LINE = """
(name) => Chart.getChart(document.querySelector(`[data-chart="${name}"] canvas`))
  .data.datasets[0].data.map((point) => point.y).filter((value) => value !== null)
"""
#: What the page shows of the requests at one moment.
SHOWN = f"""
() => ({{
  line: ({LINE})("requests"),
  tile: parseFloat(document.querySelector("[data-tile=requests] b").innerText),
  caption: document.querySelector("[data-chart=requests] [data-table] caption").textContent,
}})
"""


def line(page: Any, chart: str) -> list[float]:
    """The values that a chart draws."""
    found: list[float] = page.evaluate(LINE, chart)
    return found


def until(page: Any, condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        page.wait_for_timeout(250)


def load(stack: Stack, requests: int) -> None:
    token = stack.manage("token", "--role", "AI Bridge/Tech Lead", "--subject", f"load-{time.monotonic_ns()}")
    program = needs.command("ab", package="apache2-utils")
    subprocess.run(
        [program, "-q", "-n", str(requests), "-c", "4", "-s", "10",
         "-H", f"Authorization: Bearer {token.stdout.strip()}", f"{stack.sample_url}/zantara.unified"],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip


@pytest.fixture
def measured(stack: Stack, page_factory: Callable[..., Any]) -> Any:
    """The start page in a window of its own, once the first figures are there."""

    def make(width: str = "desktop", theme: str = "light") -> Any:
        page = page_factory(width=width, theme=theme)
        login(page, stack.web_url, "admin", stack.admin_password)
        until(page, lambda: line(page, "requests"), FIRST_FIGURES_SECONDS, "the first rate is drawn")
        return page

    return make


def test_the_charts_and_figures_move_under_load_without_a_reload(stack: Stack, measured: Callable[..., Any]) -> None:
    page = measured()
    page.evaluate("window.sameDocument = true")
    count = len(line(page, "requests"))
    load(stack, 900)
    shown: dict[str, Any] = {}

    def load_is_shown() -> bool:
        shown.update(page.evaluate(SHOWN))
        return max(shown["line"][count:], default=0) >= 20 and shown["tile"] >= 20

    until(page, load_is_shown, 60, "the load is drawn and told")
    assert "highest" in shown["caption"]
    highest = float(shown["caption"].split("highest ")[1].split(" ")[0])
    assert highest == pytest.approx(max(shown["line"]), abs=0.51)
    page.locator('[data-table-of="routes"]').get_by_text("/zantara.unified").wait_for()
    page.locator('[data-table-of="roles"]').get_by_text("AI Bridge/Tech Lead").wait_for()
    page.locator('[data-table-of="tokens"]').get_by_text("verify").wait_for()
    page.locator("#zt-card-limits").wait_for()
    assert page.evaluate("window.sameDocument") is True
    assert all(0 < value < 100 for value in line(page, "memory"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_the_start_page_is_readable_at_any_width_and_theme(
    measured: Callable[..., Any], width: str, theme: str
) -> None:
    page = measured(width, theme)
    assert_no_sideways_scroll(page)
    assert page.evaluate(CONTRAST) == []
    colours = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--zt-line-1').trim()")
    drawn = page.evaluate(
        "Chart.getChart(document.querySelector('[data-chart=requests] canvas')).data.datasets[0].borderColor"
    )
    assert drawn == colours
    for chart in CHARTS:
        figure = page.locator(f'[data-chart="{chart}"]')
        box, canvas = figure.bounding_box(), figure.locator("canvas").bounding_box()
        assert box["x"] <= canvas["x"]
        assert canvas["x"] + canvas["width"] <= box["x"] + box["width"]
        assert figure.locator("canvas").get_attribute("aria-describedby") == f"zt-table-{chart}"
        assert "newest" in figure.locator("[data-table] caption").inner_text()
    screenshot(page, f"dashboard-{width}-{theme}", full_page=True)


def test_service_and_time_are_chosen_by_links_and_each_title_leads_to_its_meaning(
    stack: Stack, measured: Callable[..., Any]
) -> None:
    page = measured()
    page.get_by_role("navigation", name="Time shown").get_by_text("6 h").click()
    page.wait_for_url("**range=6h**")
    until(page, lambda: line(page, "memory"), 20, "six hours are drawn")
    page.get_by_role("navigation", name="Service").get_by_text("control-plane").click()
    page.wait_for_url("**service=control-plane**")
    assert page.locator("[data-service]").inner_text() == "control-plane"
    assert page.get_by_role("navigation", name="Time shown").locator("[aria-current=page]").inner_text() == "6 h"
    addresses = page.evaluate(
        "[...document.querySelectorAll('.zt-dashboard a[href*=\"/docs/dashboard/#\"]')].map((a) => a.href)"
    )
    assert len(set(addresses)) >= 6
    page.goto(addresses[0])
    ids = page.evaluate("[...document.querySelectorAll('.zt-prose [id]')].map((element) => element.id)")
    assert {address.split("#")[1] for address in addresses} <= set(ids)
