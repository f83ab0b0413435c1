"""The health of the backup system: everything that is looked at, what is wrong first, with what to do."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from backups.health import health_report

from .words import docs_link


def health_page(request: HttpRequest) -> HttpResponse:
    """Read anew at each view."""
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Health of backups",
        "report": health_report(),
        "docs": docs_link("health"),
    }
    response = render(request, "admin/backups/health.html", context)
    response["Cache-Control"] = "no-store"
    return response
