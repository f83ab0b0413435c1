"""Start, System, documentation and search: who may see them, what they cost, and what they say in trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core import checks
from django.http import Http404
from django.test import Client
from django.urls import reverse

from controlplane.console.pages import docs, facts, start, system
from controlplane.console.pages.board import Board
from controlplane.kernel.registry import Card, Probe, ProbeResult, SetupStep
from tests.console.people import person, signed_in
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.django_db

PATHS = ("/admin/", "/admin/start/live/", "/admin/system/", "/admin/docs/", "/admin/search/?s=a")


def board_of(*results: ProbeResult) -> Board:
    asked = [Probe(f"p{n}", f"Part {n}", lambda: results[0], docs="docs/checks.md#x") for n in range(len(results))]
    said = {probe.name: result for probe, result in zip(asked, results, strict=True)}
    return Board(asked, lambda _asked: said, patience_seconds=5)


@pytest.fixture(autouse=True)
def quiet_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes in threads of their own would outlive a test's database; their own tests run them."""
    monkeypatch.setattr(start, "board", board_of(ProbeResult("pass", "answers in 1 ms")))


@pytest.mark.parametrize("path", PATHS)
def test_anonymous_visitors_are_sent_to_the_login(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/admin/login/?next=")


@pytest.mark.parametrize("path", PATHS)
def test_people_without_staff_rights_are_sent_to_the_login(path: str) -> None:
    assert signed_in(person("Viewer", is_staff=False)).get(path).status_code == 302


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("group", ["Viewer", "Operator", "Administrator", "superuser"])
def test_each_group_sees_the_pages(group: str, path: str) -> None:
    answer = signed_in(person(group)).get(path, follow=True)
    assert answer.status_code == 200
    assert "/admin/login/" not in answer.request["PATH_INFO"]


def test_staff_without_any_permission_sees_start_and_docs_but_not_system() -> None:
    client = signed_in(person(""))
    assert client.get("/admin/").status_code == 200
    assert client.get("/admin/docs/", follow=True).status_code == 200
    assert client.get("/admin/system/").status_code == 403
    assert "/admin/system/" not in client.get("/admin/").content.decode()


def test_a_live_part_asked_for_after_the_session_ended_sends_the_whole_page_to_the_login(client: Client) -> None:
    answer = client.get(
        "/admin/start/live/",
        headers={"HX-Request": "true", "HX-Current-URL": "http://testserver/admin/?x=1"},
        follow=True,
    )
    assert answer["HX-Redirect"] == "/admin/login/?next=%2Fadmin%2F"
    assert answer.content == b""


def test_the_live_part_costs_a_fixed_number_of_queries_and_looks_at_the_checklist_once_a_minute(
    django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = signed_in(person("superuser"))
    # What other rooms bring is pinned by their own tests.
    monkeypatch.setattr(start, "setup_steps", [start.setup_steps.get("people")])
    monkeypatch.setattr(start, "cards", [])
    client.get("/admin/start/live/")
    with django_assert_num_queries(2):  # session and user
        client.get("/admin/start/live/")
    at, steps = start._steps_seen
    monkeypatch.setattr(start, "_steps_seen", (at - start.STEPS_SECONDS, steps))
    with django_assert_num_queries(3):  # and our own step's count
        client.get("/admin/start/live/")


def test_the_page_itself_looks_at_the_checklist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done = False
    step = SetupStep(name="x", label="The step of this test", is_done=lambda: done, url=lambda: "/", help="Do it.")
    monkeypatch.setattr(start, "setup_steps", [step])
    client = signed_in(person("superuser"))
    assert "To do" in client.get("/admin/").content.decode()
    done = True
    assert "To do" not in client.get("/admin/").content.decode()
    assert "To do" not in client.get("/admin/start/live/").content.decode()


def test_the_start_page_shows_problems_first_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    board = board_of(
        ProbeResult("pass", "answers"), ProbeResult("fail", "Redis does not answer", remedy="Start Redis.")
    )
    monkeypatch.setattr(start, "board", board)
    page = signed_in(person("superuser")).get("/admin/").content.decode()
    assert page.index("Redis does not answer") < page.index("answers</p>")
    assert "Start Redis." in page
    assert 'href="/admin/docs/checks/#x"' in page
    assert "Not working" in page


def test_the_live_part_answers_while_a_probe_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release, asked, ended = threading.Event(), [], []

    def ask(probes: list[Probe]) -> dict[str, ProbeResult]:
        asked.append(1)
        release.wait(120)
        ended.append(1)
        return {}

    monkeypatch.setattr(start, "board", Board([Probe("p", "Part", lambda: ProbeResult("pass", ""))], ask))
    client = signed_in(person("superuser"))
    try:
        client.get("/admin/start/live/")
        for _ in range(7):
            assert client.get("/admin/start/live/").status_code == 200
        assert (asked, ended) == ([1], []), "it was asked once, and nobody waited for it"
    finally:
        release.set()


def test_steps_and_cards_are_shown_and_a_broken_one_takes_nothing_else_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("boom")

    steps = [
        SetupStep("a", "First step", lambda: True, lambda: "/x/"),
        SetupStep("b", "Second step", lambda: False, lambda: "/y/", help="Because."),
        SetupStep("c", "Third step", broken, lambda: "/z/"),
    ]
    monkeypatch.setattr(start, "setup_steps", steps)
    monkeypatch.setattr(start, "cards", [Card("k", "A card", "no/such.html", dict)])
    page = signed_in(person("superuser")).get("/admin/").content.decode()
    assert "First step" in page
    assert '<a href="/y/">Second step</a>' in page
    assert "Because." in page
    assert "Third step" in page
    assert "Not available just now" in page
    assert "boom" not in page


def test_an_empty_installation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "board", Board([], lambda asked: {}))
    monkeypatch.setattr(start, "setup_steps", [])
    monkeypatch.setattr(start, "cards", [])
    page = signed_in(person("superuser")).get("/admin/").content.decode()
    assert "No health probe is registered." in page
    assert "Nothing is waiting for you." in page


def test_the_brand_the_palette_and_the_icon_are_on_the_start_page() -> None:
    page = signed_in(person("superuser")).get("/admin/").content.decode()
    assert "<title> Start | Zantara control plane</title>" in page
    assert 'hx-get="/admin/search/?extended=1"' in page
    assert 'href="/static/console/favicon.svg"' in page
    assert "/static/console/console.css" in page


def test_the_browsers_own_question_for_an_icon_is_answered(client: Client) -> None:
    answer = client.get("/favicon.ico")
    assert (answer.status_code, answer["Location"]) == (302, "/static/console/favicon.svg")
    icon = client.get(answer["Location"])
    assert b"".join(icon.streaming_content).startswith(b"<svg")  # type: ignore[attr-defined]
    icon.close()


def test_the_login_page_says_where_the_first_password_is(client: Client) -> None:
    page = client.get("/admin/login/").content.decode()
    assert "First run: the password of <code>admin</code> was printed by <code>make run</code>." in page


# --- System ------------------------------------------------------------------------------------


def test_the_system_page_tells_versions_queues_and_headers(redis_client: Any) -> None:
    redis_client.rpush("work", "a", "b")
    page = (
        signed_in(person("Viewer"))
        .get("/admin/system/", headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"})
        .content.decode()
    )
    assert "2 waiting" in page
    assert "0 waiting" in page
    assert "all applied" in page
    assert "203.0.113.9" in page
    assert "Client, as resolved" in page


def test_the_system_page_answers_within_a_second_while_redis_is_frozen(
    redis_server_factory: Callable[..., Any], settings: Any
) -> None:
    server = redis_server_factory()
    settings.ZANTARA_REDIS_URL = server.url
    client = signed_in(person("Viewer"))
    assert "0 waiting" in client.get("/admin/system/").content.decode()
    server.freeze()
    with Stopwatch() as watch:
        answer = client.get("/admin/system/")
    server.thaw()
    assert answer.status_code == 200
    assert "not reachable" in answer.content.decode()
    assert watch.seconds < 1.0


def test_the_system_page_says_that_redis_is_not_reachable(
    redis_server_factory: Callable[..., Any], settings: Any
) -> None:
    server = redis_server_factory()
    settings.ZANTARA_REDIS_URL = server.url
    server.kill()
    assert facts.read_redis(server.url) == facts.RedisFacts()
    page = signed_in(person("Viewer")).get("/admin/system/").content.decode()
    assert page.count("not reachable") >= 4


def test_the_report_holds_no_secret_no_path_and_no_address(settings: Any) -> None:
    settings.ZANTARA_REDIS_URL = "redis://someone:hunter2@127.0.0.1:1/0"
    answer = signed_in(person("Viewer")).get("/admin/system/", headers={"X-Forwarded-For": "203.0.113.9"})
    page, report = answer.content.decode(), answer.context["report"]
    assert "hunter2" not in page
    assert "redis://127.0.0.1:1/0" in page
    for hidden in ("hunter2", "203.0.113.9", str(settings.ZANTARA_DATA_DIR), settings.SECRET_KEY, "127.0.0.1"):
        assert hidden not in report
    assert settings.SECRET_KEY not in page
    assert settings.ZANTARA_JWT_SECRET not in page
    assert "Django: 5.2" in report


def test_pending_migrations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "pending_migrations", lambda: ["ratelimits.0002_more"])
    page = signed_in(person("Viewer")).get("/admin/system/").content.decode()
    assert "1 pending: ratelimits.0002_more" in page


def test_checks_are_shown_gravest_first_with_a_link_to_their_page(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        checks.Warning("A warning", hint="Do this. (docs/checks.md#zantaraw001)", id="zantara.W001"),
        checks.Error("An <error>", hint="Do that. (docs/checks.md#zantarae001)", id="zantara.E001"),
    ]
    monkeypatch.setattr(system.checks, "run_checks", lambda: found)
    answer = signed_in(person("Viewer")).get("/admin/system/")
    page = answer.content.decode()
    assert page.index("An &lt;error&gt;") < page.index("A warning")
    assert 'href="/admin/docs/checks/#zantarae001"' in page
    assert "Do that.</p>" in page
    assert "zantara.E001 (Error)" in answer.context["report"]


def test_checks_that_crash_are_told_and_the_page_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> Any:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(system.checks, "run_checks", crash)
    page = signed_in(person("Viewer")).get("/admin/system/").content.decode()
    assert "The checks could not be run: RuntimeError" in page
    assert "hunter2" not in page


# --- documentation -----------------------------------------------------------------------------


@pytest.fixture
def docs_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path / "docs"
    (folder / "images").mkdir(parents=True)
    (folder / "limits.md").write_text("# Limits\n\nSee [first](first-run.md).\n\n![p](images/p.svg)\n")
    (folder / "first-run.md").write_text("# First run\n")
    (folder / "images" / "p.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"></svg>')
    (folder / "images" / "notes.txt").write_text("private")
    (tmp_path / "secret.md").write_text("# hunter2")
    monkeypatch.setattr(docs, "DOCS_FOLDER", folder)
    return folder


def test_a_page_of_the_documentation_is_shown_with_working_links_and_pictures(docs_folder: Any) -> None:
    client = signed_in(person("Viewer"))
    page = client.get("/admin/docs/limits/").content.decode()
    assert '<a href="/admin/docs/first-run/">first</a>' in page
    assert page.index("First run</a>") < page.index("Limits</a>")
    image = client.get("/admin/docs/images/p.svg")
    assert image["Content-Type"] == "image/svg+xml"
    assert "sandbox" in image["Content-Security-Policy"]
    assert b"".join(image.streaming_content).startswith(b"<svg")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path",
    [
        "../secret/",
        "..%2Fsecret/",
        "%2e%2e/secret/",
        "images/../../secret/",
        "/etc/passwd/",
        "none/",
        "limits%00/",
        "images/notes.txt",
        "images/..%2Flimits.md",
        "images/%00.png",
    ],
)
def test_nothing_outside_the_documentation_is_shown(docs_folder: Any, path: str) -> None:
    answer = signed_in(person("superuser")).get(f"/admin/docs/{path}", follow=True)
    assert answer.status_code == 404
    assert b"hunter2" not in answer.content


def test_a_link_out_of_the_folder_is_not_followed(docs_folder: Any) -> None:
    (docs_folder / "leak.md").symlink_to(docs_folder.parent / "secret.md")
    with pytest.raises(Http404):
        docs.find_file("leak.md", docs_folder)


def test_without_documentation_the_page_says_where_it_is(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "DOCS_FOLDER", tmp_path / "none")
    assert "No documentation is installed here." in signed_in(person("Viewer")).get("/admin/docs/").content.decode()


# --- the palette and people --------------------------------------------------------------------


def test_the_palette_finds_pages_and_rows_at_once_and_needs_no_redis(settings: Any) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "unix:///nowhere/redis.sock",
        }
    }
    client = signed_in(person("superuser"))
    assert "/admin/system/" in client.get("/admin/search/?s=syst&extended=1").content.decode()
    assert "zoe" not in client.get("/admin/search/?s=zoe&extended=1").content.decode()
    User.objects.create_user("zoe")
    assert "zoe" in client.get("/admin/search/?s=zoe&extended=1").content.decode()
    assert client.get("/admin/search/").content == b""


def test_the_palette_shows_only_what_one_may_see() -> None:
    User.objects.create_user("zoe")
    client = signed_in(person(""))
    assert "zoe" not in client.get("/admin/search/?s=zoe&extended=1").content.decode()
    assert "/admin/system/" not in client.get("/admin/search/?s=system&extended=1").content.decode()


def test_names_are_escaped_on_every_page() -> None:
    client = signed_in(person("superuser"))
    evil = "<img src=x onerror=alert(1)>"
    group = Group.objects.create(name=evil)
    user = User.objects.create_user("evil", first_name=evil)
    user.groups.add(group)
    for path in (reverse("admin:auth_user_changelist"), reverse("admin:auth_group_changelist"), "/admin/search/?s=img"):
        page = client.get(path).content.decode()
        assert evil not in page
    assert "&lt;img src=x" in client.get(reverse("admin:auth_user_changelist")).content.decode()


def test_the_list_of_people_costs_the_same_for_two_and_for_twenty(django_assert_num_queries: Any) -> None:
    client, url = signed_in(person("superuser")), reverse("admin:auth_user_changelist")
    group = Group.objects.create(name="g")
    client.get(url)

    def queries() -> int:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        with CaptureQueriesContext(connection) as seen:
            client.get(url)
        return len(seen)

    User.objects.create_user("first").groups.add(group)
    few = queries()
    for n in range(18):
        User.objects.create_user(f"u{n}").groups.add(group)
    assert queries() == few
    assert few <= 9
