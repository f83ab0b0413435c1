from __future__ import annotations

import threading
from typing import Any

import pytest
import redis
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from controlplane.setup.groups import ensure_groups
from ratelimits import policies
from ratelimits.headers import decision_id
from ratelimits.limiter import get_limiter
from ratelimits.limiter.outcome import Asker
from ratelimits.models import PolicyVersion, RateLimitProfile

from . import console

pytestmark = pytest.mark.usefixtures("redis_url")
NAME = "admin:ratelimits_ratelimitprofile_"
SUBMITTED = {"_form_submitted": "True"}


@pytest.fixture
def boss(transactional_db: None) -> Client:
    return console.browser(console.person("boss", superuser=True))


def save(client: Client, pk: int, form: dict[str, str]) -> Any:
    return client.post(reverse(console.CHANGE, args=[pk]), form, follow=True)


def errors_of(page: Any) -> str:
    return str(page.context["adminform"].form.errors.as_text()) + str(page.context["errors"])


@pytest.mark.parametrize(("typed", "seconds"), [("15m", 900), ("1h", 3600), ("900", 900), ("1 h 30 min", 5400)])
def test_the_window_is_typed_as_people_write_durations(boss: Client, typed: str, seconds: int) -> None:
    row = console.profile(window_seconds=60)
    form = console.change_form(boss, row.pk)
    assert form["window_seconds"] == "1 min"
    page = save(boss, row.pk, {**form, "window_seconds": typed})
    assert f"In force as version {PolicyVersion.current()}: the next decision of every process obeys." in (
        console.messages_of(page)
    )
    row.refresh_from_db()
    assert row.window_seconds == seconds


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"window_seconds": "soon"}, "“soon” is not a duration; write 15m, 1h, 1 h 30 min or 900 (seconds)."),
        ({"window_seconds": "32 days"}, "Between 1 s and 31 days."),
        ({"window_seconds": ""}, "This field is required."),
        ({"requests": "0"}, "At least 1."),
        ({"requests": "20000000"}, "At most 10 000 000"),
        ({"burst_requests": "10"}, "Give both burst requests and burst window, or neither."),
        ({"route_prefix": "zantara"}, "A route prefix begins with a slash"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words_and_nothing_is_saved(
    boss: Client, typed: dict[str, str], said: str
) -> None:
    row = console.profile()
    page = save(boss, row.pk, {**console.change_form(boss, row.pk), **typed})
    assert said in errors_of(page)
    assert row.history.count() == 1


def test_a_new_profile_is_added_and_in_force(boss: Client) -> None:
    form = console.fields_of(boss, reverse(NAME + "add"), "ratelimitprofile_form")
    page = boss.post(reverse(NAME + "add"), {**form, "role": "Partner", "requests": "7"}, follow=True)
    assert any("In force as version" in text for text in console.messages_of(page))
    row = RateLimitProfile.objects.get()
    assert (row.role, row.requests, row.window_seconds, row.key) == ("Partner", 7, 900, "ip:user")


def test_the_form_says_what_each_key_means_and_what_the_profile_does(boss: Client) -> None:
    row = console.profile()
    html = boss.get(reverse(console.CHANGE, args=[row.pk])).content.decode()
    for _, meaning in RateLimitProfile.Key.choices:
        assert meaning in html
    assert "In any 15 min one caller in the role “CEO” gets at most 500 requests." in html


def test_the_preview_follows_what_is_typed_and_saves_nothing(boss: Client) -> None:
    row = console.profile()
    form = console.change_form(boss, row.pk)
    url = reverse(NAME + "preview")
    assert "at most 7 requests" in boss.post(url, {**form, "requests": "7"}).content.decode()
    assert "Not yet clear: look at Window." in boss.post(url, {**form, "window_seconds": "x"}).content.decode()
    assert "&lt;b&gt;" in boss.post(url, {**form, "role": "<b>"}).content.decode()
    assert boss.get(url).status_code == 405
    assert (row.history.count(), RateLimitProfile.objects.count()) == (1, 1)


def test_the_second_of_two_savers_does_not_overwrite_the_first(boss: Client) -> None:
    row = console.profile()
    mine = console.change_form(boss, row.pk)
    colleague = console.browser(console.person("carol", superuser=True))
    save(colleague, row.pk, {**console.change_form(colleague, row.pk), "requests": "700"})
    page = save(boss, row.pk, {**mine, "requests": "5"})
    assert "has been changed by carol since you loaded the page: it is now 700 / 15 min" in errors_of(page)
    again = save(boss, row.pk, {**console.fields_of_response(page, "ratelimitprofile_form"), "requests": "5"})
    assert "Nothing of yours was saved" in errors_of(again)
    row.refresh_from_db()
    assert (row.requests, row.history.count()) == (700, 2)


def test_of_two_savers_at_the_same_moment_one_wins_and_the_other_is_told(boss: Client) -> None:
    row = console.profile()
    people = [boss, console.browser(console.person("carol", superuser=True))]
    forms = [{**console.change_form(who, row.pk), "requests": str(n)} for who, n in zip(people, (11, 22), strict=True)]
    start, pages = threading.Barrier(2), list[Any]([None, None])

    def run(n: int) -> None:
        from django.db import connection

        try:
            start.wait(5)
            pages[n] = people[n].post(reverse(console.CHANGE, args=[row.pk]), forms[n])
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    row.refresh_from_db()
    assert row.requests in (11, 22)
    assert row.history.count() == 2
    assert row.version == PolicyVersion.current() == policies.version_in_force()


def test_history_shows_the_difference_and_a_revert_is_published_like_any_save(boss: Client) -> None:
    row = console.profile()
    first = row.history.first()
    save(boss, row.pk, {**console.change_form(boss, row.pk), "requests": "600"})
    html = boss.get(reverse(NAME + "history", args=[row.pk])).content.decode()
    assert "<del>500</del>" in html
    assert "<ins>600</ins>" in html
    assert "Version</" not in html
    page = boss.post(reverse(NAME + "revert", args=[row.pk, first.pk]), follow=True)
    assert any("In force as version" in text for text in console.messages_of(page))
    row.refresh_from_db()
    assert (row.requests, row.version) == (500, PolicyVersion.current())
    assert policies.version_in_force() == row.version
    assert row.history.first().history_user.username == "boss"


def test_a_deleted_profile_is_published_as_gone(boss: Client) -> None:
    row = console.profile()
    page = boss.post(reverse(NAME + "delete", args=[row.pk]), {"post": "yes"}, follow=True)
    assert any("In force as version" in text for text in console.messages_of(page))
    assert policies.version_in_force() == PolicyVersion.current()


def test_saving_with_redis_away_says_what_happens_next(boss: Client, settings: Any) -> None:
    row = console.profile()
    settings.ZANTARA_REDIS_URL = console.NOWHERE
    page = save(boss, row.pk, {**console.change_form(boss, row.pk), "requests": "600"})
    said = " ".join(console.messages_of(page))
    assert f"Saved as version {PolicyVersion.current()}, not yet in force: Redis does not answer." in said
    assert "It is published within 10 s after Redis is back" in said
    assert "In force as" not in said


# --- one caller --------------------------------------------------------------------------------


def use_up(row: RateLimitProfile, *, subject: str, address: str) -> str:
    """Calls until the caller is denied; the denial's id."""
    asker = Asker(role=row.role, subject=subject, address=address, path="/zantara.unified")
    for _ in range(row.requests):
        assert get_limiter().decide(asker).allowed
    denied = get_limiter().decide(asker)
    assert not denied.allowed
    return decision_id(denied)


def is_allowed(row: RateLimitProfile, *, subject: str, address: str) -> bool:
    return get_limiter().decide(Asker(role=row.role, subject=subject, address=address, path="/zantara.x")).allowed


def test_resetting_a_caller_frees_him_alone_and_is_logged(boss: Client) -> None:
    row = console.profile(requests=2)
    use_up(row, subject="alice", address="192.0.2.7")
    use_up(row, subject="bob", address="192.0.2.8")
    url = reverse(NAME + "reset_caller", args=[row.pk])
    answer = boss.post(url, {"subject": "alice", "address": "192.0.2.7", **SUBMITTED})
    assert answer.headers["HX-Refresh"] == "true"
    assert is_allowed(row, subject="alice", address="192.0.2.7")
    assert not is_allowed(row, subject="bob", address="192.0.2.8")
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.change_message) == ("boss", "Reset alice at 192.0.2.7.")


def test_an_ipv6_caller_is_reset_by_any_of_his_addresses(boss: Client) -> None:
    row = console.profile(requests=1, key="ip")
    use_up(row, subject="", address="2001:db8::/64")
    boss.post(reverse(NAME + "reset_caller", args=[row.pk]), {"address": "2001:db8::77", **SUBMITTED})
    assert is_allowed(row, subject="", address="2001:db8::/64")


@pytest.mark.parametrize(
    ("key", "asked", "said"),
    [
        ("ip:user", {"subject": "alice"}, "This profile counts per address"),
        ("user|ip", {}, "Give the subject, or the address"),
        ("ip", {"address": "house"}, "“house” is not an IP address."),
    ],
)
def test_a_reset_that_names_no_caller_resets_nobody(boss: Client, key: str, asked: dict[str, str], said: str) -> None:
    row = console.profile(requests=1, key=key)
    use_up(row, subject="alice", address="192.0.2.7")
    answer = boss.post(reverse(NAME + "reset_caller", args=[row.pk]), {**asked, **SUBMITTED})
    assert said in answer.content.decode()
    assert not is_allowed(row, subject="alice", address="192.0.2.7")
    assert not LogEntry.objects.exists()


def test_a_reset_with_redis_away_says_so_and_is_not_logged_as_done(boss: Client, settings: Any) -> None:
    row = console.profile()
    settings.ZANTARA_REDIS_URL = console.NOWHERE
    boss.post(reverse(NAME + "reset_caller", args=[row.pk]), {"address": "192.0.2.7", **SUBMITTED})
    page = boss.get(reverse(console.LIST))
    assert any("Redis does not answer. Nothing was reset" in text for text in console.messages_of(page))
    assert not LogEntry.objects.exists()


def test_a_decision_id_is_explained_with_the_limit_then_and_now(boss: Client) -> None:
    row = console.profile(requests=2)
    text = use_up(row, subject="alice", address="192.0.2.7")
    then = row.version
    row.requests = 9
    row.save()
    url = reverse(NAME + "explain_decision")
    html = " ".join(boss.get(url, {"decision_id": f" {text} "}).content.decode().split())
    assert "2 of 2 / 15 min were used" in html
    assert f"then 2 / 15 min (version {then}); now 9 / 15 min (last changed in version {row.version})" in html
    assert "role “CEO”" in html
    assert "address and user: each address of a user counts on its own" in html
    assert "alice" not in html
    yes = boss.get(url, {"decision_id": text, "subject": "alice", "address": "192.0.2.7"}).content.decode()
    assert "Yes, it was this caller." in yes
    no = boss.get(url, {"decision_id": text, "subject": "bob", "address": "192.0.2.7"}).content.decode()
    assert "No, it was another caller." in no


def test_the_caller_of_a_decision_can_be_reset_without_knowing_who_he_is(boss: Client) -> None:
    row = console.profile(requests=1)
    text = use_up(row, subject="alice", address="192.0.2.7")
    page = boss.post(reverse(NAME + "reset_key"), {"decision_id": text}, follow=True)
    assert "The caller begins anew." in console.messages_of(page)
    assert is_allowed(row, subject="alice", address="192.0.2.7")


def test_a_deleted_profile_is_still_explained_from_its_history(boss: Client) -> None:
    row = console.profile(requests=1)
    text = use_up(row, subject="alice", address="192.0.2.7")
    row.delete()
    html = boss.get(reverse(NAME + "explain_decision"), {"decision_id": text}).content.decode()
    assert "CEO (deleted since)" in " ".join(html.split())


@pytest.mark.parametrize("garbled", ["x", "%00", "AAAA" * 20, "<script>alert(1)</script>", "é" * 30])
def test_a_garbled_id_gets_a_clear_error(boss: Client, garbled: str) -> None:
    page = boss.get(reverse(NAME + "explain_decision"), {"decision_id": garbled})
    assert page.status_code == 200
    assert "decision id" in page.content.decode()
    assert "were used" not in page.content.decode()
    assert "<script>alert(1)" not in page.content.decode()


def test_a_forged_id_is_refused(boss: Client) -> None:
    row = console.profile(requests=1)
    text = use_up(row, subject="", address="192.0.2.7")
    forged = text[:20] + ("A" if text[20] != "A" else "B") + text[21:]
    html = boss.get(reverse(NAME + "explain_decision"), {"decision_id": forged}).content.decode()
    assert "was not made by this installation" in html
    assert "were used" not in html


# --- who may do what ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "allowed"),
    [
        ("", set()),
        ("Viewer", {"list", "change", "history", "preview"}),
        (
            "Operator",
            {"list", "change", "history", "preview", "add", "edit", "revert", "reset", "explain", "reset_key"},
        ),
        (
            "Administrator",
            {
                "list",
                "change",
                "history",
                "preview",
                "add",
                "edit",
                "revert",
                "reset",
                "explain",
                "reset_key",
                "delete",
            },
        ),
    ],
)
def test_each_group_may_do_what_it_should_and_nothing_else(
    transactional_db: None, redis_client: redis.Redis, group: str, allowed: set[str]
) -> None:
    ensure_groups()
    row = console.profile()
    who = console.browser(console.member("someone", group) if group else console.person("someone"))
    boss = console.browser(console.person("boss", superuser=True))
    form = console.change_form(boss, row.pk)
    first = row.history.first()
    trials = {
        "list": lambda: who.get(reverse(console.LIST)),
        "change": lambda: who.get(reverse(console.CHANGE, args=[row.pk])),
        "history": lambda: who.get(reverse(NAME + "history", args=[row.pk])),
        "preview": lambda: who.post(reverse(NAME + "preview"), form),
        "explain": lambda: who.get(reverse(NAME + "explain_decision")),
        "add": lambda: who.get(reverse(NAME + "add")),
        "edit": lambda: who.post(reverse(console.CHANGE, args=[row.pk]), {**form, "requests": "501"}),
        "revert": lambda: who.post(reverse(NAME + "revert", args=[row.pk, first.pk])),
        "reset": lambda: who.post(reverse(NAME + "reset_caller", args=[row.pk]), {"address": "192.0.2.7", **SUBMITTED}),
        "reset_key": lambda: who.post(reverse(NAME + "reset_key"), {"decision_id": "x"}),
        "delete": lambda: who.get(reverse(NAME + "delete", args=[row.pk])),
    }
    answers = {name: trial().status_code for name, trial in trials.items()}
    assert {name for name, status in answers.items() if status in (200, 302)} == allowed, answers
    assert {status for name, status in answers.items() if name not in allowed} <= {403}
    row.refresh_from_db()
    assert row.history.count() == (3 if "edit" in allowed else 1)


def test_a_viewer_sees_no_inputs_in_the_list_and_cannot_post_it(transactional_db: None) -> None:
    ensure_groups()
    row = console.profile()
    boss, viewer = (
        console.browser(console.person("boss", superuser=True)),
        console.browser(console.member("someone", "Viewer")),
    )
    form = console.list_form(boss)
    form[f"{console.row_of(form, row.pk)}-requests"] = "5"
    assert 'name="form-0-requests"' not in viewer.get(reverse(console.LIST)).content.decode()
    assert viewer.post(reverse(console.LIST), {**form, "_save": "Save"}).status_code == 403
    row.refresh_from_db()
    assert row.requests == 500
