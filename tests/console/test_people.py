"""People: nobody raises himself, and nobody touches somebody who has more rights."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.urls import reverse

from controlplane.setup.groups import ensure_groups
from tests.console.people import person, signed_in

pytestmark = pytest.mark.django_db


def change_url(user: User) -> str:
    return reverse("admin:auth_user_change", args=(user.pk,))


def form_of(user: User, **changes: Any) -> dict[str, Any]:
    fields = {
        "username": user.username,
        "first_name": "",
        "is_active": "on",
        "is_staff": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        "groups": [group.pk for group in user.groups.all()],
    }
    return {**fields, **changes}


@pytest.fixture
def keeper() -> User:
    """Somebody who may manage accounts and see what a Viewer sees, and no more."""
    user = person("Viewer")
    user.user_permissions.set(Permission.objects.filter(codename__in=["add_user", "change_user", "delete_user"]))
    return user


def test_an_administrator_cannot_make_himself_a_superuser() -> None:
    user = person("Administrator")
    signed_in(user).post(change_url(user), form_of(user, is_superuser="on", first_name="Ada"))
    user.refresh_from_db()
    assert user.first_name == "Ada"
    assert user.is_superuser is False


def test_nobody_gives_a_group_whose_rights_he_lacks(keeper: User) -> None:
    ensure_groups()
    administrator = Group.objects.get(name="Administrator")
    page = signed_in(keeper).get(change_url(keeper)).content.decode()
    assert ">Viewer<" in page
    assert ">Administrator<" not in page
    signed_in(keeper).post(change_url(keeper), form_of(keeper, groups=[administrator.pk]))
    assert [group.name for group in keeper.groups.all()] == ["Viewer"]


@pytest.mark.parametrize("group", ["superuser", "Administrator"])
def test_nobody_changes_or_deletes_somebody_who_has_more_rights(keeper: User, group: str) -> None:
    other, client = person(group), signed_in(keeper)
    assert client.post(change_url(other), form_of(other, first_name="Eve")).status_code == 403
    password = reverse("admin:auth_user_password_change", args=(other.pk,))
    assert client.post(password, {"password1": "Zx9-Zx9-Zx9", "password2": "Zx9-Zx9-Zx9"}).status_code == 403
    delete = reverse("admin:auth_user_delete", args=(other.pk,))
    assert client.post(delete, {"post": "yes"}).status_code == 403
    client.post(
        reverse("admin:auth_user_changelist"),
        {"action": "delete_selected", "_selected_action": [str(other.pk)], "post": "yes"},
    )
    other.refresh_from_db()
    assert (other.first_name, other.has_usable_password()) == ("", False)


def test_a_superuser_changes_everybody() -> None:
    other = person("Administrator")
    client = signed_in(person("superuser"))
    assert client.post(change_url(other), form_of(other, is_superuser="on")).status_code == 302
    other.refresh_from_db()
    assert other.is_superuser is True


def test_only_superusers_change_groups() -> None:
    ensure_groups()
    group = Group.objects.get(name="Viewer")
    url = reverse("admin:auth_group_change", args=(group.pk,))
    assert signed_in(person("Administrator")).post(url, {"name": "Mine"}).status_code == 403
    group.refresh_from_db()
    assert group.name == "Viewer"
    assert signed_in(person("superuser")).post(url, {"name": "Readers"}).status_code == 302
    group.refresh_from_db()
    assert group.name == "Readers"


@pytest.mark.parametrize(("group", "list_status"), [("Viewer", 200), ("Operator", 200), ("Administrator", 200)])
def test_everybody_with_a_group_sees_the_lists_and_viewers_change_nothing(group: str, list_status: int) -> None:
    user = person(group)
    client = signed_in(user)
    for name in ("auth_user", "auth_group"):
        assert client.get(reverse(f"admin:{name}_changelist")).status_code == list_status
    assert client.get(reverse("admin:auth_user_add")).status_code == (200 if group == "Administrator" else 403)
