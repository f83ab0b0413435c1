"""What the first operator does: edits a limit in the browser, and the very next request obeys."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests import needs
from tests.browser import Watch, assert_no_sideways_scroll, login, screenshot
from tests.stack import Stack, doctor_at_leisure

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]

PROFILES = "/admin/ratelimits/ratelimitprofile/"


@pytest.fixture(autouse=True)
def fresh_counters(stack: Stack) -> None:
    """Every test begins with nobody counted."""
    with redis.Redis.from_url(stack.redis_url) as client:
        for key in client.scan_iter("{zantara-limits}:[cu]:*"):
            client.delete(key)


def ask(stack: Stack, path: str = "/zantara.unified", token: str = "") -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(stack.sample_url + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.load(answer)
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, {k.lower(): v for k, v in answer.headers.items()}, json.load(answer)


def token(stack: Stack, role: str) -> str:
    made = stack.manage("token", "--role", role, "--subject", "alice")
    assert made.returncode == 0, made.stderr
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", made.stdout), "prints the token and nothing else"
    return made.stdout.strip()


def limit_of(stack: Stack, role: str, requests: int, page: Any) -> None:
    """Edit a role's limit in the list, as an operator does."""
    page.goto(stack.web_url + PROFILES)
    row = page.locator("tr", has=page.get_by_text(role, exact=True))
    row.locator("input[type=number][name$=-requests]").fill(str(requests))
    page.get_by_role("button", name="Save").click()
    page.get_by_text(re.compile("In force as version")).first.wait_for()


def test_an_edited_limit_binds_the_next_request_and_a_revert_the_one_after(
    stack: Stack, page_factory: Callable[..., Any], watch: Watch
) -> None:
    page = page_factory()
    login(page, stack.web_url, "admin", stack.admin_password)
    status, before, _ = ask(stack)
    assert (status, before["ratelimit-limit"], before["ratelimit-remaining"]) == (200, "100", "99")

    limit_of(stack, "default", 2, page)

    status, after, _ = ask(stack)
    assert (status, after["ratelimit-limit"], after["ratelimit-remaining"]) == (200, "2", "0")  # usage is kept
    assert int(after["zantara-policy-version"]) == int(before["zantara-policy-version"]) + 1
    status, denied, body = ask(stack)
    assert (status, body["detail"]) == (429, "Rate limit exceeded")

    page.goto(stack.web_url + PROFILES)
    page.locator("tr", has=page.get_by_text("default", exact=True)).locator("a").first.click()
    page.wait_for_url(re.compile(r"/change/"))
    page.goto(page.url.replace("/change/", "/history/").split("?")[0])
    newest = page.locator(".zt-history > li").first
    assert "100" in newest.locator("del").inner_text()
    assert "2" in newest.locator("ins").inner_text()
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator(".zt-history > li").nth(1).get_by_role("button", name="Revert to this").click()
    page.get_by_text(re.compile("in force|reverted", re.IGNORECASE)).first.wait_for()

    status, reverted, _ = ask(stack)
    assert (status, reverted["ratelimit-limit"]) == (200, "100")
    assert int(reverted["zantara-policy-version"]) == int(after["zantara-policy-version"]) + 1

    assert denied["retry-after"] == str(body["retry_after"])
    page.goto(stack.web_url + PROFILES)
    page.get_by_role("link", name="Explain a decision id").first.click()
    page.locator("input[name=decision_id], textarea[name=decision_id]").fill(body["decision_id"])
    page.get_by_role("button", name=re.compile("Explain", re.IGNORECASE)).last.click()
    page.get_by_text("2 / 15 min").first.wait_for()
    page.get_by_text(re.compile(rf"version {after['zantara-policy-version']}", re.IGNORECASE)).first.wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_the_list_of_limits_shows_use_and_force_at_any_width(
    stack: Stack, page_factory: Callable[..., Any], width: str, theme: str
) -> None:
    ask(stack)
    ask(stack, token=token(stack, "CEO"))
    page = page_factory(width=width, theme=theme)
    login(page, stack.web_url, "admin", stack.admin_password)
    page.goto(stack.web_url + PROFILES)
    assert_no_sideways_scroll(page)
    row = page.locator("tr", has=page.get_by_text("CEO", exact=True))
    assert "500 / 15 min" in row.inner_text()
    assert "in force" in row.inner_text()
    assert row.locator("[data-label=Allowed], .field-allowed").first.inner_text().strip().endswith("1")
    screenshot(page, f"limits-{width}-{theme}")


def test_each_role_gets_its_own_limit_and_its_own_words(stack: Stack) -> None:
    for role, limit in (
        ("AI Bridge/Tech Lead", 1000),
        ("CEO", 500),
        ("Setup Team Lead", 200),
        ("External", 50),
        ("Somebody new", 100),
    ):
        status, fields, body = ask(stack, token=token(stack, role))
        assert (status, fields["ratelimit-limit"], body["role"]) == (200, str(limit), role)


def ab(stack: Stack, *options: str) -> dict[str, int]:
    program = needs.command("ab", package="apache2-utils")
    run = subprocess.run(
        [program, "-q", "-n", "1000", "-c", "100", *options, f"{stack.sample_url}/zantara.unified"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    def number(label: str) -> int:
        found = re.search(rf"^{label}:\s+(\d+)", run.stdout, re.MULTILINE)
        return int(found[1]) if found else 0

    return {"complete": number("Complete requests"), "refused": number("Non-2xx responses")}


@pytest.fixture(scope="module")
def nothing_is_shed(stack: Stack) -> Iterator[None]:
    """A machine that is busy otherwise refuses nobody for that: what is refused here is over its limit."""

    def shed(active: bool) -> None:
        code = (
            "from ratelimits.models import LoadSheddingPolicy\n"
            f"row = LoadSheddingPolicy.the_row(); row.active = {active}; row.save()"
        )
        done = stack.manage("shell", "--no-imports", "-v", "0", "-c", code)
        assert done.returncode == 0, done.stderr

    shed(False)
    time.sleep(4)  # every process asks for the policy once a second
    yield
    shed(True)


def test_ab_sees_exactly_a_hundred_answers_of_a_thousand_as_an_anonymous_caller(
    stack: Stack, nothing_is_shed: None
) -> None:
    assert ab(stack) == {"complete": 1000, "refused": 900}
    status, _, body = ask(stack)
    assert (status, body["status"]) == (429, 429)
    # one bucket over all the routes that the profile covers
    assert ask(stack, "/zantara.collective")[0] == 429


def test_ab_sees_a_thousand_answers_of_a_thousand_as_tech_lead(stack: Stack, nothing_is_shed: None) -> None:
    bearer = token(stack, "AI Bridge/Tech Lead")
    assert ab(stack, "-H", f"Authorization: Bearer {bearer}") == {"complete": 1000, "refused": 0}


def test_health_is_never_limited(stack: Stack, nothing_is_shed: None) -> None:
    ab(stack)
    assert ask(stack)[0] == 429
    for path in ("/livez", "/readyz"):
        with urllib.request.urlopen(stack.sample_url + path, timeout=5) as answer:
            assert answer.status == 200
            assert "RateLimit" not in answer.headers


def test_the_doctor_finds_nothing_to_mend_beside_a_running_stack(stack: Stack) -> None:
    found = doctor_at_leisure(lambda: stack.manage("doctor", "--json"))
    report = json.loads(found.stdout)
    assert found.returncode == 0, found.stdout
    assert report
    assert '"fail"' not in found.stdout


def test_a_users_password_buys_a_token_with_his_role(stack: Stack) -> None:
    body = json.dumps({"username": "admin", "password": stack.admin_password}).encode()
    request = urllib.request.Request(
        f"{stack.web_url}/auth/token", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        issued = json.load(answer)
    assert issued["token_type"] == "Bearer"
    status, fields, seen = ask(stack, token=issued["access_token"])
    assert (status, seen["role"], fields["ratelimit-limit"]) == (200, "default", "100")
