"""The health of the backup system: everything that is looked at, what is wrong first, with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from backups.health import health_report
from backups.models import BackupPlan, StorageTarget
from controlplane.console.base import badge, since, with_code

from .words import State, docs_link, state_badge

STATES: Mapping[str, State] = {
    "pass": ("OK", "ok", "check_circle"),
    "warn": ("Look at this", "warn", "warning"),
    "fail": ("Not working", "bad", "error"),
    "unknown": ("Not known", "muted", "help"),
}
#: What a check's name begins with: what is said of it, and whether it is of a target or of a plan.
SUBJECTS = {
    "storage": ("Reachable", "target"),
    "space": ("Free space", "target"),
    "orphans": ("Store and records", "target"),
    "uploads": ("Unfinished uploads", "target"),
    "backup": ("Last backup", "plan"),
    "proof": ("Last proof", "plan"),
    "compression": ("Compression", "plan"),
    "retention": ("Retention", "plan"),
    "damage": ("Damage", "plan"),
    "plans": ("Plans", ""),
    "deletion": ("Deletions", ""),
}


def health_page(request: HttpRequest) -> HttpResponse:
    """Read anew at each view, from rows alone: the stores themselves are asked by a task."""
    report = health_report()
    links = {
        **{
            f"target:{name}": _link("storagetarget", pk) for name, pk in StorageTarget.objects.values_list("name", "pk")
        },
        **{f"plan:{name}": _link("backupplan", pk) for name, pk in BackupPlan.objects.values_list("name", "pk")},
    }
    shown = [_check(check, links) for check in report["checks"]]
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Backup health",
        "wrong": [one for one in shown if one["status"] != "pass"],
        "groups": _groups([one for one in shown if one["status"] == "pass"]),
        "overall": state_badge(report["status"], STATES),
        "well": badge("All well", "ok"),
        "asked": since(datetime.fromisoformat(report["checked_at"])),
        "total": len(shown),
        "docs": docs_link("health"),
    }
    response = render(request, "admin/backups/health.html", context)
    response["Cache-Control"] = "no-store"
    return response


def _link(model: str, pk: int) -> str:
    return reverse(f"admin:backups_{model}_change", args=(pk,))


def _check(check: Mapping[str, Any], links: Mapping[str, str]) -> dict[str, Any]:
    what, _, of = str(check["name"]).partition(":")
    label, room = SUBJECTS.get(what, (what.replace("_", " ").capitalize(), ""))
    return {
        "status": check["status"],
        "label": label,
        "of": of,
        "room": room,
        "url": links.get(f"{room}:{of}", ""),
        "badge": state_badge(str(check["status"]), STATES),
        "summary": check["summary"],
        "remedy": with_code(check["remedy"]) if check["remedy"] and check["status"] != "pass" else "",
    }


def _groups(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is well, by target and plan."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in shown:
        of = f"{one['room'].capitalize()} {one['of']}" if one["room"] else "In general"
        group = found.setdefault((one["room"], one["of"]), {"title": of, "url": one["url"], "checks": []})
        group["checks"].append(one)
    return list(found.values())
