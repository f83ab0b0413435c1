"""The System page: what an operator, or whoever helps him, needs to know about this installation."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.core import checks
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.console.base import Tone, badge, with_code

from . import facts as read
from .docs import docs_url

#: Our checks end their hint with the page that explains them: ``… (docs/checks.md#zantarae001)``.
_DOCS_REFERENCE = re.compile(r"docs/([\w/-]+)\.md(#[\w-]+)?")
_DOCS_AT_END = re.compile(r"\s*\(docs/[^)]*\)$")


def system_page(request: HttpRequest) -> HttpResponse:
    """Everything is read anew, softly, and within a second."""
    from django.contrib import admin

    from_redis = read.read_redis(settings.ZANTARA_REDIS_URL)
    sections = [read.versions(from_redis), read.work(from_redis), read.storage(from_redis)]
    found, problem = run_system_checks()
    context = {
        **admin.site.each_context(request),
        "title": "System",
        "sections": [*sections, read.caller(request)],
        "checks": found,
        "checks_problem": problem,
        "no_checks": badge("OK", "ok"),
        "report": report(sections, found),
    }
    response = render(request, "console/system.html", context)
    response["Cache-Control"] = "no-store"
    return response


def run_system_checks() -> tuple[list[dict[str, Any]] | None, str]:
    """Django's and our checks, gravest first; None and the reason if they could not be run."""
    try:
        found = checks.run_checks()
    except Exception as problem:  # noqa: BLE001  (a check that fails must not hide the rest of the page)
        return None, type(problem).__name__
    shown = [message for message in found if not message.is_silenced()]
    return [_check(message) for message in sorted(shown, key=lambda message: -message.level)], ""


def _check(message: checks.CheckMessage) -> dict[str, Any]:
    text, tone = _grade(message.level)
    hint = str(message.hint or "")
    reference = _DOCS_REFERENCE.search(hint)
    return {
        "id": message.id or "no id",
        "message": message.msg,
        "hint": with_code(_DOCS_AT_END.sub("", hint)),
        "badge": badge(text, tone),
        "grade": text,
        "docs_url": docs_url("".join(part or "" for part in reference.groups())) if reference else "",
    }


def _grade(level: int) -> tuple[str, Tone]:
    if level >= checks.ERROR:
        return "Error", "bad"
    if level >= checks.WARNING:
        return "Warning", "warn"
    return "Note", "info"


def report(sections: list[read.Section], found: list[dict[str, Any]] | None) -> str:
    """The page as plain text for a bug report: without addresses, paths, names and secrets."""
    lines: list[str] = []
    for section in sections:
        lines += [f"{section.title}:", *(f"  {fact.name}: {fact.shown}" for fact in section.facts if fact.shareable)]
    lines.append("System checks:")
    if found is None:
        lines.append("  could not be run")
    else:
        lines += [f"  {check['id']} ({check['grade']})" for check in found] or ["  none fails"]
    return "\n".join(lines)
