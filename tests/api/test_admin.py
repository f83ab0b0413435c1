"""Tokens in the admin: made and shown once, looked at, revoked; by whom."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from controlplane.api.models import ApiToken
from controlplane.api.tokens import revoke
from controlplane.kernel import clock
from tests.backups.admin.pages import messages_of, text_of
from tests.console.people import person, signed_in

from .conftest import Program, token_for

ADD, LIST = "/admin/api/apitoken/add/", "/admin/api/apitoken/"
FORM: dict[str, Any] = {"name": "GitHub", "scopes": ["health:read", "limits:read"], "life_days": "90", "role": ""}


@pytest.fixture
def admin(root: User) -> Client:
    return signed_in(root)


def test_a_new_token_is_shown_once_and_works(admin: Client, root: User) -> None:
    page = admin.post(ADD, {**FORM, "owner": root.pk})
    token = ApiToken.objects.get()
    assert page.status_code == 200
    assert "no-store" in page.headers["Cache-Control"]
    found = re.findall(r"zt_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", page.content.decode())
    assert len(found) == 1
    assert Program(found[0]).get("/health").status_code == 200
    assert (token.scopes, token.created_by, token.owner) == (["limits:read", "health:read"], "root", root)
    assert timedelta(days=89, hours=23) < token.expires_at - clock.now() <= timedelta(days=90)
    secret = found[0][12:]
    for address in (LIST, reverse("admin:api_apitoken_change", args=(token.pk,)), "/admin/"):
        assert secret not in admin.get(address).content.decode()
    assert secret not in str(list(LogEntry.objects.values()))
    assert secret not in str(dict(admin.session.items()))
    assert LogEntry.objects.get().object_repr == f"GitHub ({token.prefix}…)"


def test_the_form_begins_with_oneself_and_90_days(admin: Client) -> None:
    page = admin.get(ADD).content.decode()
    assert re.search(r'<option value="\d+" selected[^>]*>\s*root', page)
    assert re.search(r'<option value="90" selected', page)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scopes": []}, "This field is required."),
        ({"scopes": ["everything"]}, "Select a valid choice."),
        ({"life_days": "9999"}, "Select a valid choice."),
        ({"role": "King"}, "Select a valid choice."),
        ({"name": " "}, "This field is required."),
    ],
)
def test_a_wrong_form_is_shown_again_and_makes_nothing(
    admin: Client, root: User, changes: dict[str, Any], words: str
) -> None:
    page = admin.post(ADD, {**FORM, "owner": root.pk, **changes})
    assert (page.status_code, ApiToken.objects.count()) == (200, 0)
    assert words in text_of(page)


def test_a_name_is_free_again_once_its_token_is_revoked(admin: Client, root: User) -> None:
    admin.post(ADD, {**FORM, "owner": root.pk})
    assert "There is a token of this name that is not revoked." in text_of(admin.post(ADD, {**FORM, "owner": root.pk}))
    revoke(ApiToken.objects.get(), actor="root")
    admin.post(ADD, {**FORM, "owner": root.pk})
    assert ApiToken.objects.count() == 2


def test_an_operator_grants_what_he_may_himself_and_only_for_those_who_may_no_more(root: User) -> None:
    operator = person("Operator")
    client = signed_in(operator)
    page = client.post(ADD, {**FORM, "owner": root.pk})
    assert "root may do more than you." in text_of(page)
    viewer = person("Viewer")
    page = client.post(ADD, {**FORM, "owner": viewer.pk, "scopes": ["limits:write"]})
    assert "a-viewer may not do what limits:write is for." in text_of(page)
    assert ApiToken.objects.count() == 0
    assert client.post(ADD, {**FORM, "owner": operator.pk, "scopes": ["limits:write"]}).status_code == 200
    assert ApiToken.objects.get().owner == operator


def test_a_viewer_sees_tokens_and_makes_and_revokes_none(root: User) -> None:
    token, _ = token_for(root, "health:read")
    client = signed_in(person("Viewer"))
    assert token.prefix in text_of(client.get(LIST))
    assert client.get(ADD).status_code == 403
    assert client.post(ADD, {**FORM, "owner": root.pk}).status_code == 403
    url = reverse("admin:api_apitoken_revoke_token", args=(token.pk,))
    assert client.post(url, {"_form_submitted": "True"}, headers={"HX-Request": "true"}).status_code == 403
    assert ApiToken.objects.get().revoked_at is None


def test_the_list_shows_prefix_state_scopes_end_and_last_use(admin: Client, root: User) -> None:
    token, text = token_for(root, "health:read", "limits:read")
    used, _ = token_for(root, "health:read")
    Program(text).get("/health")
    shown = text_of(admin.get(LIST))
    for words in (f"{token.prefix}…", f"{used.prefix}…", "valid", "limits:read", "never", "in 23 h"):
        assert words in shown, words


def test_a_token_is_revoked_with_a_dialog_and_never_deleted_or_changed(admin: Client, root: User) -> None:
    token, text = token_for(root, "health:read")
    url = reverse("admin:api_apitoken_revoke_token", args=(token.pk,))
    assert admin.get(url).status_code in (200, 405)
    assert ApiToken.objects.get().revoked_at is None
    admin.post(url, {"_form_submitted": "True"}, headers={"HX-Request": "true"})
    assert messages_of(admin) == [f"{token.name} is revoked."]
    assert ApiToken.objects.get().revoked_by == "root"
    assert Program(text).get("/health").status_code == 401
    assert "revoked" in text_of(admin.get(LIST))
    assert admin.post(reverse("admin:api_apitoken_delete", args=(token.pk,)), {"post": "yes"}).status_code == 403
    change = reverse("admin:api_apitoken_change", args=(token.pk,))
    assert admin.post(change, {"name": "other", "scopes": ["limits:write"]}).status_code == 403
    row = ApiToken.objects.get()
    assert (row.name, row.scopes) == (token.name, ["health:read"])
