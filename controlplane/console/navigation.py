"""The sidebar: groups and items that rooms add in ``AppConfig.ready()``, shown to whoever may open them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from controlplane.kernel.registry import Registry


@dataclass(frozen=True)
class NavigationItem:
    """One line of the sidebar.

    ``url_name`` is reversed at each request and the item left out where no page of that name exists.
    ``permission`` (``app.codename``; several separated by ``|``: any of them) hides it from others;
    empty: every member of staff sees it. ``icon`` is a Material Symbols name.
    """

    group: str
    title: str
    icon: str
    url_name: str
    permission: str = ""


navigation_items: Registry[NavigationItem] = Registry("navigation item")


def add_navigation(group: str, title: str, icon: str, url_name: str, permission: str = "") -> None:
    """Add a line to the sidebar. A new ``group`` name opens a new group at the end."""
    navigation_items.add(url_name, NavigationItem(group, title, icon, url_name, permission))


def may_open(request: HttpRequest, permission: str) -> bool:
    """True if the user holds any of the permissions (``a.view_x|a.change_x``), or none is asked for."""
    return not permission or any(request.user.has_perm(name) for name in permission.split("|"))


def visible_items(request: HttpRequest) -> list[tuple[NavigationItem, str]]:
    """The items that this user may open, each with its address."""
    found = []
    for item in navigation_items:
        try:
            link = reverse(item.url_name)
        except NoReverseMatch:
            continue
        if may_open(request, item.permission):
            found.append((item, link))
    return found


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar as the theme reads it."""
    groups: dict[str, dict[str, Any]] = {}
    for item, link in visible_items(request):
        group = groups.setdefault(item.group, {"title": item.group, "separator": bool(groups), "items": []})
        group["items"].append({"title": item.title, "icon": item.icon, "link": link})
    return list(groups.values())
