"""What an operator sees of releases on the whole stack: a good one goes through under load, a bad one is taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import assert_no_sideways_scroll, login, open_dialog
from tests.deployments.on_stack import OnStack
from tests.stack import ROOT, Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]

WHOLE_SECONDS = 150
RATE = 50


@pytest.fixture(scope="module")
def on(stack: Stack) -> OnStack:
    """The stack once its first release serves everybody."""
    on = OnStack(stack)
    wait_for(
        lambda: on.rows("SELECT 1 FROM deployments_deployment WHERE state = 'succeeded'"), WHOLE_SECONDS, "the first"
    )
    return on


@pytest.fixture
def page(on: OnStack, page_factory: Callable[..., Any]) -> Any:
    made = page_factory()
    login(made, on.stack.web_url, "admin", on.stack.admin_password)
    return made


def until_state(page: Any, state: str, seconds: float = WHOLE_SECONDS) -> None:
    """Wait for the page itself to show the state; it follows the deployment without being touched."""
    page.locator(f"#zt-deployment[data-state='{state}']").wait_for(state="attached", timeout=seconds * 1000)


def act(page: Any, name: str, button: str, reason: str = "") -> None:
    """Press a button above the page, and the one of its dialog."""
    dialog = open_dialog(page, page.locator(f"a[href$='/{name}/']").first)
    if reason:
        dialog.locator("textarea[name=reason]").fill(reason)
    dialog.get_by_role("button", name=button).click()


def open_deployment(on: OnStack, page: Any, name: str) -> None:
    ((pk,),) = on.rows("SELECT id FROM deployments_deployment WHERE name = ?", name)
    page.goto(f"{on.stack.web_url}/admin/deployments/deployment/{pk}/change/")


def test_a_release_asked_for_on_its_page_goes_through_all_stages_and_no_request_fails(on: OnStack, page: Any) -> None:
    on.plan([(10, 25), (50, 6), (100, 0)])
    page.goto(f"{on.stack.web_url}/admin/deployments/service/")
    page.locator("#result_list a[href*='/service/']", has_text="zantara").first.click()
    page.wait_for_url(re.compile(r"/service/\d+/change/"))
    with on.load(RATE) as load:
        dialog = open_dialog(page, page.locator("a[href$='/deploy/']").first)
        dialog.locator("input[name=version]").fill("e2e-good")
        dialog.locator("input[name=source]").fill(str(ROOT))
        dialog.get_by_role("button", name="Deploy").click()
        page.wait_for_url(re.compile(r"/deployment/\d+/change/"))
        until_state(page, "baking")
        page.locator("#zt-deployment [data-effective]").get_by_text("10 %").wait_for()
        until_state(page, "succeeded")
    assert load.result["statuses"] == {"200": load.result["sent"]}
    assert (load.result["failed"], load.result["closed"]) == (0, 0)
    page.get_by_text("e2e-good").first.wait_for()
    assert page.locator(".zt-stage").count() == 3
    points = page.evaluate("Chart.getChart(document.querySelector('[data-side=errors] canvas')).data.datasets[0].data")
    assert len(points) > 3
    assert {one["release"] for one in on.instances()} == {"e2e-good"}
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")  # the charts follow later
    assert_no_sideways_scroll(page)


def test_a_bad_release_is_taken_back_by_itself_and_the_page_says_why(on: OnStack, page: Any) -> None:
    on.plan([(10, 120), (100, 0)])
    on.chaos("e2e-bad", error_rate=0.5)
    serving = {one["release"] for one in on.instances()}
    with on.load(RATE) as load:
        name = on.deploy("e2e-bad")
        open_deployment(on, page, name)
        until_state(page, "rolled_back")
    why = page.locator(".zt-problem").inner_text()
    assert "e2e-bad" in why
    assert re.search(r"\d+ of \d", why), why
    page.locator("#zt-deployment [data-effective]").get_by_text("0 %").wait_for()
    assert {one["release"] for one in on.instances()} == serving
    # only what the bad release itself answered; nothing was lost on the way there or back
    assert set(load.result["statuses"]) <= {"200", "500"}, load.result
    assert (load.result["failed"], load.result["closed"]) == (0, 0), load.result
    assert load.result["statuses"].get("500", 0) < load.result["sent"] * 0.1, (load.result, why)


def test_one_is_paused_resumed_and_promoted_by_hand(on: OnStack, page: Any) -> None:
    on.plan([(10, 600), (100, 0)])
    with on.load(RATE):
        name = on.deploy("e2e-by-hand")
        open_deployment(on, page, name)
        until_state(page, "baking")
        act(page, "pause", "Pause")
        until_state(page, "paused", 30)
        page.reload()
        act(page, "resume", "Resume")
        until_state(page, "baking", 30)
        page.reload()
        act(page, "promote", "Promote", "it looks well")
        until_state(page, "succeeded")
    page.get_by_text("it looks well").first.wait_for()


def test_the_pages_fit_a_phone_and_a_desk_in_both_themes(on: OnStack, page_factory: Callable[..., Any]) -> None:
    for width, theme in (("phone", "light"), ("desktop", "dark")):
        made = page_factory(width, theme)
        login(made, on.stack.web_url, "admin", on.stack.admin_password)
        for model in ("service", "release", "deployment"):
            made.goto(f"{on.stack.web_url}/admin/deployments/{model}/")
            assert_no_sideways_scroll(made)
