"""What the admin's tests share: people, pages read as a browser reads them, and a Redis that is not there."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from controlplane.setup.bootstrap import create_profiles
from ratelimits.models import RateLimitProfile

LIST = "admin:ratelimits_ratelimitprofile_changelist"
CHANGE = "admin:ratelimits_ratelimitprofile_change"
NOWHERE = "unix:///nonexistent/redis.sock?db=0"


def person(name: str, *permissions: str, superuser: bool = False) -> User:
    user = User.objects.create_user(name, is_staff=True, is_superuser=superuser)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def member(name: str, group: str) -> User:
    user = User.objects.create_user(name, is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    return user


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def seed_profiles() -> None:
    """The five profiles of a new installation."""
    assert create_profiles().status == "changed"


def profile(role: str = "CEO", **changes: Any) -> RateLimitProfile:
    row = RateLimitProfile(**{"role": role, "requests": 500, "message": "Too many requests for CEO", **changes})
    row.full_clean()
    row.save()
    return row


class _Fields(HTMLParser):
    """The fields of one form, as a browser would submit them."""

    def __init__(self, form_id: str) -> None:
        super().__init__()
        self._form_id, self._inside, self._select, self._area = form_id, False, "", ""
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._inside = given.get("id") == self._form_id
        name = given.get("name") or ""
        if not self._inside or (not name and tag != "option"):
            return
        if tag == "input":
            kind = given.get("type", "text")
            if kind in ("checkbox", "radio") and "checked" not in given:
                return
            if kind not in ("submit", "button", "file"):
                self.values[name] = given.get("value") or ("on" if kind == "checkbox" else "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and "selected" in given:
            self.values[self._select] = given.get("value") or ""
        elif tag == "textarea":
            self._area, self.values[name] = name, ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.values[self._area] += data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False
        elif tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._area = ""


def fields_of(client: Client, url: str, form_id: str) -> dict[str, str]:
    """The form on that page, filled in as the page shows it."""
    return fields_of_response(client.get(url), form_id)


def fields_of_response(response: Any, form_id: str) -> dict[str, str]:
    assert response.status_code == 200, response.status_code
    parser = _Fields(form_id)
    parser.feed(response.content.decode())
    assert parser.values, f"no form {form_id}"
    return {name: value for name, value in parser.values.items() if not name.startswith("_")}


def list_form(client: Client, url: str | None = None) -> dict[str, str]:
    return fields_of(client, url or reverse(LIST), "changelist-form")


def row_of(form: dict[str, str], pk: int) -> str:
    """The prefix of a row in the list's form."""
    return next(name.removesuffix("-id") for name, value in form.items() if name.endswith("-id") and value == str(pk))


def save_list(client: Client, form: dict[str, str]) -> Any:
    return client.post(reverse(LIST), {**form, "_save": "Save"}, follow=True)


def change_form(client: Client, pk: int) -> dict[str, str]:
    return fields_of(client, reverse(CHANGE, args=[pk]), "ratelimitprofile_form")


def messages_of(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]
