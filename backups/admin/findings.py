"""The answer of a “Test” dialog: what was found, shown in the dialog itself."""

from __future__ import annotations

from collections.abc import Sequence

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from backups.sources.base import Finding

from .words import findings_shown


def tested(request: HttpRequest, findings: Sequence[Finding]) -> HttpResponse:
    """The findings in the place of the dialog's form, what is wrong first."""
    worst = "fail" if any(found.status == "fail" for found in findings) else "pass"
    return render(
        request, "admin/backups/tested.html", {"findings": findings_shown(findings), "is_well": worst == "pass"}
    )
