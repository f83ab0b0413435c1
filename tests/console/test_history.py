"""History in the admin: who changed what, and back with one click."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from ratelimits.models import RateLimitProfile
from tests.console.people import person, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_url")]


@pytest.fixture
def profile() -> RateLimitProfile:
    """A profile that was 100, became 50 with another message, and is shadow now."""
    row = RateLimitProfile.objects.create(role="Tester", requests=100, message="Slow down")
    row.requests, row.message = 50, "<b>Slower</b>"
    row.save()
    row.enforced = False
    row.save()
    return row


def history_url(row: RateLimitProfile) -> str:
    return reverse("admin:ratelimits_ratelimitprofile_history", args=(row.pk,))


def revert_url(row: RateLimitProfile, version: Any) -> str:
    return reverse("admin:ratelimits_ratelimitprofile_revert", args=(row.pk, version.pk))


def test_the_history_says_who_changed_what_from_what_to_what(profile: RateLimitProfile) -> None:
    user = person("superuser")
    latest = profile.history.latest()
    latest.history_user = user
    latest.save()
    page = signed_in(user).get(history_url(profile)).content.decode()
    assert "<strong>root</strong>" in page
    assert "<strong>the system</strong>" in page
    assert "<del>100</del>" in page
    assert "<ins>50</ins>" in page
    assert "<del>yes</del>" in page
    assert "<ins>no</ins>" in page
    assert "&lt;b&gt;Slower&lt;/b&gt;" in page
    assert "<b>Slower" not in page
    assert '<span class="zt-change-field">Version</span>' not in page


def test_a_revert_saves_the_old_row_through_the_model_and_is_itself_in_the_history(profile: RateLimitProfile) -> None:
    first, version_before = profile.history.earliest(), profile.version
    user = person("Operator")
    answer = signed_in(user).post(revert_url(profile, first))
    assert (answer.status_code, answer["Location"]) == (302, history_url(profile))
    profile.refresh_from_db()
    assert (profile.requests, profile.message, profile.enforced) == (100, "Slow down", True)
    assert profile.version > version_before
    latest = profile.history.latest()
    assert profile.history.count() == 4
    assert latest.history_user == user
    assert latest.history_change_reason == f"reverted to {first.history_date:%Y-%m-%d %H:%M:%S} UTC"
    assert LogEntry.objects.get(user=user).change_message == latest.history_change_reason


def test_nobody_reverts_without_the_right_to_change(profile: RateLimitProfile) -> None:
    client, first = signed_in(person("Viewer")), profile.history.earliest()
    assert "Revert to this" not in client.get(history_url(profile)).content.decode()
    assert client.post(revert_url(profile, first)).status_code == 403
    profile.refresh_from_db()
    assert profile.requests == 50
    assert profile.history.count() == 3


def test_a_revert_by_link_or_by_the_old_form_is_refused(profile: RateLimitProfile) -> None:
    client, first = signed_in(person("superuser")), profile.history.earliest()
    assert client.get(revert_url(profile, first)).status_code == 405
    old = reverse("admin:ratelimits_ratelimitprofile_simple_history", args=(profile.pk, first.pk))
    assert client.get(old).status_code == 200
    assert client.post(old, {"requests": 7}).status_code == 405
    profile.refresh_from_db()
    assert profile.requests == 50


def test_a_revert_needs_the_forms_token(profile: RateLimitProfile) -> None:
    client = signed_in(person("superuser"))
    client.handler.enforce_csrf_checks = True
    assert client.post(revert_url(profile, profile.history.earliest())).status_code == 403
    assert profile.history.count() == 3


def test_a_version_of_another_row_is_not_found(profile: RateLimitProfile) -> None:
    other = RateLimitProfile.objects.create(role="Other", requests=7)
    answer = signed_in(person("superuser")).post(revert_url(profile, other.history.earliest()))
    assert answer.status_code == 404
    profile.refresh_from_db()
    assert profile.requests == 50


def test_a_deleted_row_comes_back_for_those_who_may_add(profile: RateLimitProfile) -> None:
    first, pk = profile.history.earliest(), profile.pk
    url, history = revert_url(profile, first), history_url(profile)
    profile.delete()
    client = signed_in(person("Operator"))
    assert "This row was deleted." in client.get(history).content.decode()
    client.post(url)
    assert RateLimitProfile.objects.get(pk=pk).requests == 100
    assert signed_in(person("Viewer")).post(url).status_code == 403


def test_a_revert_that_the_rules_forbid_is_refused_with_the_reason(profile: RateLimitProfile) -> None:
    profile.active = False
    profile.save()
    RateLimitProfile.objects.create(role="Tester", requests=5)
    answer = signed_in(person("superuser")).post(revert_url(profile, profile.history.earliest()), follow=True)
    assert "Not reverted. There is an active profile" in answer.content.decode()
    profile.refresh_from_db()
    assert (profile.active, profile.requests) == (False, 50)


def test_the_last_version_on_a_page_knows_what_it_changed_although_its_elder_is_on_the_next(
    profile: RateLimitProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.contrib import admin

    monkeypatch.setattr(admin.site._registry[RateLimitProfile], "history_list_per_page", 2)
    page = signed_in(person("superuser")).get(history_url(profile)).content.decode()
    assert "<del>100</del>" in page
    assert 'href="?p=2"' in page
    second = signed_in(person("Viewer")).get(history_url(profile) + "?p=2").content.decode()
    assert "created it" in second
    assert "as it is now" not in second


def test_the_history_costs_the_same_for_three_and_for_thirty_versions(profile: RateLimitProfile) -> None:
    client = signed_in(person("superuser"))

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert client.get(history_url(profile)).status_code == 200
        return len(seen)

    queries()
    few = queries()
    for n in range(27):
        profile.requests = 200 + n
        profile.save()
    assert queries() == few
