"""People with the rights of the three groups, for tests of what each may see."""

from __future__ import annotations

from django.contrib.auth.models import Group, User
from django.test import Client

from controlplane.setup.groups import ensure_groups


def person(group: str, *, is_staff: bool = True) -> User:
    """A member of Viewer, Operator or Administrator; ``superuser``; or ``""`` for no group."""
    if group == "superuser":
        return User.objects.create_superuser("root")
    user = User.objects.create_user(f"a-{group.lower() or 'nobody'}", is_staff=is_staff)
    if group:
        ensure_groups()
        user.groups.add(Group.objects.get(name=group))
    return user


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client
