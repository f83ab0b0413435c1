from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from ratelimits import policies
from ratelimits.decision import DEFAULT_ROLE
from ratelimits.limiter import get_limiter
from ratelimits.limiter.outcome import Asker
from ratelimits.models import PolicyVersion, RateLimitProfile

from . import console

pytestmark = pytest.mark.usefixtures("redis_url")
Queries = Callable[..., Any]


@pytest.fixture
def boss(transactional_db: None) -> Client:
    return console.browser(console.person("boss", superuser=True))


def test_the_list_tells_role_limit_use_version_and_who_changed_it_last(boss: Client) -> None:
    console.seed_profiles()
    asker = Asker(role="CEO", subject="alice", address="192.0.2.7", path="/zantara.unified")
    for _ in range(3):
        assert get_limiter().decide(asker).allowed
    page = boss.get(reverse(console.LIST))
    rows = {row.role: row for row in page.context["cl"].result_list}
    use = rows["CEO"].page_facts.usage
    assert (use.allowed, use.denied, use.callers) == (3, 0, 1)
    assert all(row.page_facts.in_force for row in rows.values())
    html = page.content.decode()
    assert "500 / 15 min" in html
    assert "1000 / 15 min" in html
    assert html.count("in force") >= 5
    assert "by the system" in html


def test_the_list_takes_as_many_queries_for_fifty_profiles_as_for_five(
    boss: Client, django_assert_num_queries: Queries
) -> None:
    console.seed_profiles()
    boss.get(reverse(console.LIST))
    with django_assert_num_queries(6):
        boss.get(reverse(console.LIST))
    for number in range(45):
        console.profile(f"Partner {number}")
    with django_assert_num_queries(6):
        assert len(boss.get(reverse(console.LIST)).context["cl"].result_list) == 50


def test_the_use_of_a_whole_page_is_one_round_trip(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    console.seed_profiles()
    calls: list[str] = []
    client = policies.client()
    real = client.execute_command
    monkeypatch.setattr(client, "execute_command", lambda *a, **k: calls.append(a[0]) or real(*a, **k))
    assert boss.get(reverse(console.LIST)).status_code == 200
    assert sorted(calls) == ["EVAL", "HMGET"]


def test_an_edit_in_the_list_binds_the_next_decision_and_says_so(boss: Client) -> None:
    console.seed_profiles()
    row = RateLimitProfile.objects.get(role=DEFAULT_ROLE)
    asker = Asker(role=DEFAULT_ROLE, subject="", address="192.0.2.7", path="/zantara.unified")
    assert get_limiter().decide(asker).windows[0].limit == 100
    form = console.list_form(boss)
    form[f"{console.row_of(form, row.pk)}-requests"] = "1"
    said = console.messages_of(console.save_list(boss, form))
    version = PolicyVersion.current()
    assert f"In force as version {version}: the next decision of every process obeys." in said
    decision = get_limiter().decide(asker)
    assert (decision.allowed, decision.version, decision.windows[0].limit) == (False, version, 1)
    newest = row.history.first()
    assert (newest.requests, newest.history_user.username, row.history.count()) == (1, "boss", 2)


def test_only_the_rows_that_were_changed_are_saved(boss: Client) -> None:
    console.seed_profiles()
    before = dict(RateLimitProfile.objects.values_list("role", "version"))
    row = RateLimitProfile.objects.get(role="CEO")
    form = console.list_form(boss)
    form.pop(f"{console.row_of(form, row.pk)}-active")
    console.save_list(boss, form)
    after = {r.role: (r.version, r.active) for r in RateLimitProfile.objects.all()}
    assert after.pop("CEO") == (PolicyVersion.current(), False)
    assert {role: version for role, (version, _) in after.items()} == {k: v for k, v in before.items() if k != "CEO"}


def test_a_save_of_an_unchanged_list_changes_nothing_and_says_nothing(boss: Client) -> None:
    console.seed_profiles()
    before = PolicyVersion.current()
    said = console.messages_of(console.save_list(boss, console.list_form(boss)))
    assert (PolicyVersion.current(), said) == (before, [])


def test_a_stale_list_overwrites_nothing_and_names_who_was_first(boss: Client) -> None:
    console.seed_profiles()
    row = RateLimitProfile.objects.get(role="CEO")
    stale = console.list_form(boss)
    colleague = console.browser(console.person("carol", superuser=True))
    theirs = console.list_form(colleague)
    theirs[f"{console.row_of(theirs, row.pk)}-requests"] = "700"
    console.save_list(colleague, theirs)
    stale[f"{console.row_of(stale, row.pk)}-requests"] = "5"
    for _ in range(2):  # pressing "save" again does not get it through either
        page = console.save_list(boss, stale)
        assert "has been changed by carol since you loaded the page" in page.content.decode()
        assert "700 / 15 min" in page.content.decode()
        row.refresh_from_db()
        assert (row.requests, row.history.count()) == (700, 2)
        stale = console.fields_of_response(page, "changelist-form")


def test_a_stale_list_may_still_change_the_rows_that_nobody_else_touched(boss: Client) -> None:
    console.seed_profiles()
    ceo, external = RateLimitProfile.objects.get(role="CEO"), RateLimitProfile.objects.get(role="External")
    stale = console.list_form(boss)
    ceo.requests = 700
    ceo.save()
    stale[f"{console.row_of(stale, external.pk)}-requests"] = "60"
    console.save_list(boss, stale)
    ceo.refresh_from_db()
    external.refresh_from_db()
    assert (ceo.requests, external.requests) == (700, 60)


def test_a_list_without_the_version_it_showed_is_taken_as_stale(boss: Client) -> None:
    row = console.profile()
    form = console.list_form(boss)
    form[f"{console.row_of(form, row.pk)}-requests"] = "5"
    page = console.save_list(boss, {k: v for k, v in form.items() if not k.endswith("seen_version")})
    assert "Nothing of yours was saved" in page.content.decode()
    row.refresh_from_db()
    assert row.requests == 500


def test_a_race_between_check_and_save_changes_nothing(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    row = console.profile()
    form = console.list_form(boss)
    form[f"{console.row_of(form, row.pk)}-requests"] = "5"
    fired = []

    from ratelimits.admin import ProfileAdmin

    real = ProfileAdmin.save_form

    def somebody_is_first(self: Any, request: Any, form: Any, change: bool) -> Any:
        other = RateLimitProfile.objects.get(pk=row.pk)
        other.requests = 700
        RateLimitProfile.save(other)
        fired.append(True)
        return real(self, request, form, change)

    monkeypatch.setattr(ProfileAdmin, "save_form", somebody_is_first)
    page = console.save_list(boss, form)
    assert fired
    assert any("changed meanwhile" in text for text in console.messages_of(page))
    row.refresh_from_db()
    assert row.requests != 5


def test_what_a_row_cannot_be_is_said_at_the_row_even_if_the_field_is_not_in_the_list(boss: Client) -> None:
    row = console.profile(burst_requests=100, burst_window_seconds=10)
    console.profile("External", active=False)
    clash = console.profile("External", requests=60)
    form = console.list_form(boss)
    form[f"{console.row_of(form, row.pk)}-requests"] = "50"
    inactive = RateLimitProfile.objects.get(role="External", active=False)
    form[f"{console.row_of(form, inactive.pk)}-active"] = "on"
    page = console.save_list(boss, form).content.decode()
    assert "this burst would never be reached" in page
    assert "There is an active profile for this role" in page
    row.refresh_from_db()
    assert (row.requests, RateLimitProfile.objects.get(pk=clash.pk).active) == (500, True)


def test_with_redis_away_the_list_is_shown_and_a_save_says_not_yet_in_force(boss: Client, settings: Any) -> None:
    console.seed_profiles()
    settings.ZANTARA_REDIS_URL = console.NOWHERE
    page = boss.get(reverse(console.LIST))
    html = page.content.decode()
    assert "unknown" in html
    assert "Redis does not answer, so nothing is known." in html
    row = RateLimitProfile.objects.get(role="CEO")
    form = console.list_form(boss)
    form[f"{console.row_of(form, row.pk)}-requests"] = "600"
    said = console.messages_of(console.save_list(boss, form))
    assert any("not yet in force: Redis does not answer. It is published within 10 s" in text for text in said)
    row.refresh_from_db()
    assert row.requests == 600


def test_a_saved_row_that_redis_has_not_seen_is_marked_until_it_is_reconciled(boss: Client, settings: Any) -> None:
    console.seed_profiles()
    url, settings.ZANTARA_REDIS_URL = settings.ZANTARA_REDIS_URL, console.NOWHERE
    row = RateLimitProfile.objects.get(role="CEO")
    row.requests = 600
    row.save()
    settings.ZANTARA_REDIS_URL = url
    assert boss.get(reverse(console.LIST)).content.decode().count("saved, not yet in force") == 1
    assert policies.reconcile().status == "in_force"
    assert "saved, not yet in force" not in boss.get(reverse(console.LIST)).content.decode()


def test_a_role_that_looks_like_markup_is_shown_as_text(boss: Client) -> None:
    evil = '<script>alert("x")</script>'
    row = console.profile(evil, subject="<img src=x onerror=1>", route_prefix="/<b>", note="</textarea><script>")
    for url in (
        reverse(console.LIST),
        reverse(console.CHANGE, args=[row.pk]),
        reverse("admin:ratelimits_ratelimitprofile_history", args=[row.pk]),
        reverse("admin:index"),
    ):
        html = boss.get(url).content.decode()
        assert evil not in html, url
        assert "<img src=x" not in html, url
        assert "</textarea><script>" not in html, url


def test_the_list_can_be_searched_and_filtered(boss: Client) -> None:
    console.seed_profiles()
    console.profile("Partner", active=False, subject="bob")
    for query, roles in (
        ("?q=bob", {"Partner"}),
        ("?active__exact=0", {"Partner"}),
        ("?role=CEO", {"CEO"}),
        ("?enforced__exact=0", set()),
    ):
        found = boss.get(reverse(console.LIST) + query).context["cl"].result_list
        assert {row.role for row in found} == roles, query


def test_an_empty_list_says_what_to_do(boss: Client) -> None:
    assert "No profiles, so nobody is limited." in boss.get(reverse(console.LIST)).content.decode()


def test_activating_in_bulk_saves_each_row_and_leaves_a_clash_alone(boss: Client) -> None:
    off = console.profile("Partner", active=False)
    console.profile("CEO")
    clash = console.profile("CEO", active=False)
    page = boss.post(
        reverse(console.LIST),
        {"action": "activate", "_selected_action": [off.pk, clash.pk], "index": "0"},
        follow=True,
    )
    said = " ".join(console.messages_of(page))
    assert "1 activated." in said
    assert "“CEO” was left alone" in said
    assert "In force as version" in said
    off.refresh_from_db()
    clash.refresh_from_db()
    assert (off.active, clash.active, off.history.first().history_user.username) == (True, False, "boss")


def test_deleting_in_bulk_is_published(boss: Client) -> None:
    rows = [console.profile("Partner"), console.profile("CEO")]
    page = boss.post(
        reverse(console.LIST),
        {"action": "delete_selected", "_selected_action": [row.pk for row in rows], "index": "0", "post": "yes"},
        follow=True,
    )
    assert not RateLimitProfile.objects.exists()
    assert any("In force as version" in text for text in console.messages_of(page))
    assert policies.version_in_force() == PolicyVersion.current()
