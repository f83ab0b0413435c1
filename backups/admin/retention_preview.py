"""What the rules of a plan, as they are typed, would keep and delete, and why: a table per set."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from backups.engine.expiry import preview_retention
from backups.models import BackupPlan
from backups.retention import Rules
from controlplane.console.base import badge, human_bytes, since
from controlplane.kernel.errors import ZantaraError

from .words import moment

#: Rows that are drawn; the sums count all.
MOST_ROWS = 400


class RulesForm(forms.Form):
    """The seven numbers, as the plan's own form checks them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in BackupPlan.RULES:
            column: Any = BackupPlan._meta.get_field(name)
            self.fields[name] = column.formfield()


def retention_table(request: HttpRequest, plan: BackupPlan, now: datetime) -> HttpResponse:
    """The table for the page; a sentence instead where the rules make no sense."""
    form = RulesForm(request.POST)
    context: dict[str, Any] = {}
    if not form.is_valid():
        name, errors = next(iter(form.errors.items()))
        context["problem"] = f"{form.fields[name].label}: {errors[0]}"
    else:
        rules = Rules(**{name: int(form.cleaned_data[name] or 0) for name in BackupPlan.RULES})
        try:
            context |= _judged(plan, rules, now)
        except ZantaraError as refused:
            context["problem"] = str(refused)
    return render(request, "admin/backups/judgements.html", context)


def _judged(plan: BackupPlan, rules: Rules, now: datetime) -> dict[str, Any]:
    judgements = preview_retention(plan, rules, now)
    going = [one.record for one in judgements if not one.keep]
    return {
        "kept": len(judgements) - len(going),
        "deleted": len(going),
        "freed": human_bytes(sum(record.stored_bytes for record in going)),
        "more": max(0, len(judgements) - MOST_ROWS),
        "rows": [
            {
                "name": one.record.name,
                "url": reverse("admin:backups_backuprecord_change", args=(one.record.pk,)),
                "at": moment(one.record.committed_at),
                "when": since(one.record.committed_at, now=now),
                "size": human_bytes(one.record.stored_bytes),
                "keep": one.keep,
                "badge": badge("Kept", "ok") if one.keep else badge("Deleted", "bad", "delete"),
                "reasons": ", ".join(map(str, one.reasons)),
            }
            for one in judgements[:MOST_ROWS]
        ],
    }
