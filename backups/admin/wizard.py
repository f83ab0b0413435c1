"""The restore wizard: a record's parts → preview and preflight → the id typed in, with a reason → live steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse

from backups.models import BackupRecord
from backups.restore.options import MINIMUM_SCORE, Options
from backups.restore.preview import PartPreview, Preview, preview
from backups.restore.requests import request_restore
from backups.sources.base import kinds
from controlplane.console.base import human_bytes, human_seconds, since
from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError
from controlplane.kernel.ports import all_service_controls

from .dialogs import reason_field, typed_id
from .record_actions import who
from .standing import level_badge, proof_cell, restore_words, standing_of
from .words import docs_link, findings_shown, kind_label, moment, people_words, sizes

#: The groups in the order of the seed's options, with the words of its questions.
GROUPS = {
    "vectors": "Vectors",
    "databases": "Databases",
    "configuration": "Configuration",
    "userdata": "User data",
    "logs": "Logs",
    "": "Of a kind that this version does not know",
}


class ChooseForm(forms.Form):
    """What is to come back, and what may be stopped for it. Read from a query, so that a step back loses nothing."""

    parts = forms.MultipleChoiceField(error_messages={"required": "Choose at least one part."})
    stop_services = forms.BooleanField(required=False)
    services = forms.MultipleChoiceField(required=False)
    minimum_score = forms.IntegerField(min_value=0, max_value=100, initial=MINIMUM_SCORE)
    without_safety_backup = forms.BooleanField(required=False)

    def __init__(self, *args: Any, parts: Iterable[str], services: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["parts"].choices = [(name, name) for name in parts]  # type: ignore[attr-defined]
        self.fields["services"].choices = [(name, name) for name in services]  # type: ignore[attr-defined]

    def options(self) -> dict[str, Any]:
        data = self.cleaned_data
        return {
            "stop_services": data["stop_services"],
            "services": data["services"] if data["stop_services"] else [],
            "minimum_score": data["minimum_score"],
            "without_safety_backup": data["without_safety_backup"],
        }


class ConfirmForm(forms.Form):
    """The id typed in, and why."""

    typed = forms.CharField(max_length=80)
    reason = reason_field("Kept with the restore.")

    def __init__(self, *args: Any, expected: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.expected = expected

    def clean_typed(self) -> str:
        return typed_id(self.cleaned_data["typed"], self.expected)


def choose_page(request: HttpRequest, record_id: int) -> HttpResponse:
    """The first page: parts, services, and how well the system must be afterwards."""
    record = _record(record_id)
    standing = standing_of(record.artifacts.all())
    form = _choose_form(request.GET, record) if request.GET else None
    chosen = set(request.GET.getlist("parts"))
    controls = all_service_controls()
    context = {
        **_frame(request, record, "choose"),
        "groups": _groups(record, chosen if form is not None else None),
        "services": [
            {"name": name, "label": control.label, "chosen": form is None or name in request.GET.getlist("services")}
            for name, control in controls.items()
        ],
        "stop_services": request.GET.get("stop_services") == "on",
        "without_safety_backup": request.GET.get("without_safety_backup") == "on",
        "minimum_score": request.GET.get("minimum_score", MINIMUM_SCORE),
        "proof": proof_cell(standing, clock.now()),
        "restores_in": restore_words(standing) if standing.measured else "",
        "preview_url": reverse("admin:backups_restore_preview", args=(record.pk,)),
        "errors": [error for errors in form.errors.values() for error in errors] if form is not None else [],
    }
    return render(request, "admin/backups/restore_choose.html", context)


def preview_page(request: HttpRequest, record_id: int) -> HttpResponse:
    """The second page: what would be done and what speaks against it; a POST asks for the restore."""
    record = _record(record_id)
    choice = _choose_form(request.GET, record)
    back = f"{reverse('admin:backups_restore_choose', args=(record.pk,))}?{request.GET.urlencode()}"
    if not choice.is_valid():
        return HttpResponseRedirect(back)
    confirm = ConfirmForm(request.POST if request.method == "POST" else None, expected=record.name)
    names, options = choice.cleaned_data["parts"], choice.options()
    if request.method == "POST" and confirm.is_valid():
        try:
            restore = request_restore(
                record, artifacts=names, options=options, requested_by=who(request),
                reason=confirm.cleaned_data["reason"],
            )  # fmt: skip
        except ZantaraError as refused:
            messages.error(request, str(refused))
        else:
            messages.success(request, f"{restore.name} is asked for.")
            return HttpResponseRedirect(reverse("admin:backups_restorerecord_change", args=(restore.pk,)))
    try:
        seen = preview(record, names, options)
    except ZantaraError as refused:
        messages.error(request, str(refused))
        return HttpResponseRedirect(back)
    context = {
        **_frame(request, record, "preview"),
        **_preview(seen),
        "confirm": confirm,
        "back": back,
        "minimum_score": options["minimum_score"],
        "without_safety_backup": options["without_safety_backup"],
    }
    return render(request, "admin/backups/restore_preview.html", context)


def _record(pk: int) -> BackupRecord:
    record = BackupRecord.objects.select_related("plan").filter(pk=pk).first()
    if record is None:
        raise Http404
    return record


def _choose_form(query: QueryDict, record: BackupRecord) -> ChooseForm:
    parts = record.artifacts.values_list("name", flat=True)
    return ChooseForm(query, parts=parts, services=all_service_controls())


def _frame(request: HttpRequest, record: BackupRecord, page: str) -> dict[str, Any]:
    at = [("choose", "Choose"), ("preview", "Look at what would happen, and confirm"), ("watch", "Watch it")]
    return {
        **admin.site.each_context(request),
        "title": f"Restore {record.name}",
        "record": record,
        "record_url": reverse("admin:backups_backuprecord_change", args=(record.pk,)),
        "saved": since(record.committed_at),
        "saved_at": moment(record.committed_at),
        "at": [{"text": text, "current": name == page} for name, text in at],
        "docs": docs_link("restore"),
    }


def _groups(record: BackupRecord, chosen: set[str] | None) -> list[dict[str, Any]]:
    """The parts by group; without a choice yet those are ticked whose group the defaults name."""
    defaults = Options()
    found: dict[str, list[dict[str, Any]]] = {}
    for artifact in record.artifacts.all():
        group = str(kinds.get(artifact.kind).group) if artifact.kind in kinds else ""
        ticked = artifact.name in chosen if chosen is not None else defaults.wants(group)
        found.setdefault(group, []).append(
            {
                "name": artifact.name,
                "kind": kind_label(artifact.kind),
                "summary": people_words(artifact.summary or {}),
                "sizes": sizes(artifact.plain_bytes, artifact.stored_bytes),
                "level": level_badge(artifact.proof_level, artifact.damaged_at is not None),
                "takes": human_seconds(artifact.restore_seconds) if artifact.restore_seconds is not None else "",
                "ticked": ticked and artifact.damaged_at is None and bool(group),
            }
        )
    return [{"title": title, "parts": found[group]} for group, title in GROUPS.items() if group in found]


def _preview(seen: Preview) -> dict[str, Any]:
    seconds = [part.restore_seconds for part in seen.parts if part.restore_seconds is not None]
    return {
        "parts": [_part(part) for part in seen.parts],
        "findings": findings_shown(seen.findings),
        "services": [
            {
                "label": service.label,
                "runs": {True: "runs", False: "does not run", None: "cannot be told"}[service.is_running],
                "stops": service.would_stop,
            }
            for service in seen.services
        ],
        "stops_any": any(service.would_stop for service in seen.services),
        "needs": human_bytes(seen.needs_bytes),
        "refusals": seen.refusals,
        "may_begin": seen.may_begin,
        "takes": human_seconds(sum(seconds)) if seconds and len(seconds) == len(seen.parts) else "",
    }


def _part(part: PartPreview) -> dict[str, Any]:
    return {
        "name": part.name,
        "label": part.label,
        "sizes": sizes(part.plain_bytes, part.stored_bytes),
        "captured": moment(part.captured_at),
        "summary": people_words(dict(part.summary)),
        "level": level_badge(part.proof_level),
        "findings": findings_shown(part.findings),
    }
