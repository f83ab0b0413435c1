"""Restores in the admin: what was asked for, which step it is at, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import RestoreRecord
from backups.restore import requests
from controlplane.console.base import Dialog, action, badge, display, human_seconds, since
from controlplane.kernel import clock

from .base import ViewOnlyAdmin
from .live import MOVED
from .record_actions import who
from .words import ENDED_RESTORE, RESTORE_STATES, STEP_STATES, docs_link, small, state_badge, took

#: The way of a restore that goes well, in the states of its machine.
WAY = (
    "preflight", "safety_backup", "stopping", "restoring", "validating", "swapping", "starting", "checking", "done",
)  # fmt: skip
_STEPS = {
    "preflight": "Check first",
    "safety_backup": "Safety backup",
    "stop": "Stop",
    "prepare": "Restore beside",
    "validate": "Compare",
    "swap": "Swap in",
    "start": "Start",
    "check_health": "Check health",
    "discard": "Clear away",
    "undo": "Put back",
}
_ENDINGS = {
    "done": "It is restored, and the system is well.",
    "rolled_back": "It did not work out. Everything is as it was before.",
    "failed": "It did not work out, and not everything could be put back. Read what happened, and act.",
    "refused": "Nothing was touched: there was a reason not to begin.",
    "cancelled": "It was cancelled before anything was touched.",
}


class RestoreStateFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, words[0]) for state, words in RESTORE_STATES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RestoreRecord]) -> QuerySet[RestoreRecord]:
        return queryset.filter(state=self.value()) if self.value() in RESTORE_STATES else queryset


@admin.register(RestoreRecord)
class RestoreRecordAdmin(ViewOnlyAdmin[RestoreRecord]):
    """One row per restore."""

    list_display = ("name_shown", "record_shown", "parts_shown", "state_shown", "when_shown", "took_shown", "by_shown")
    list_display_links = ("name_shown",)
    list_filter = (RestoreStateFilter, "created_at")
    search_fields = ("name", "record__name", "requested_by", "reason")
    search_help_text = "Id, backup, person or reason"
    ordering = ("-created_at", "-pk")
    change_form_template = "admin/backups/restore.html"
    empty_state = "Nothing was restored yet. Open a backup and choose “Restore”: it shows what would happen first."
    actions_detail = ("cancel",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[RestoreRecord]:
        return super().get_queryset(request).select_related("record", "safety_record")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response: HttpResponse = super().changelist_view(request, {"title": "Restores", **(extra_context or {})})
        return response

    @display(description="Restore", ordering="name")
    def name_shown(self, restore: RestoreRecord) -> SafeString:
        return format_html('<span class="zt-nowrap">{}</span>', restore.name)

    @display(description="From", ordering="record__name")
    def record_shown(self, restore: RestoreRecord) -> SafeString:
        url = reverse("admin:backups_backuprecord_change", args=(restore.record_id,))
        return format_html('<a class="zt-link zt-nowrap" href="{}">{}</a>', url, restore.record.name)

    @display(description="Parts")
    def parts_shown(self, restore: RestoreRecord) -> str:
        return ", ".join(map(str, restore.artifacts))

    @display(description="State", ordering="state")
    def state_shown(self, restore: RestoreRecord) -> SafeString:
        return state_badge(restore.state, RESTORE_STATES)

    @display(description="When", ordering="created_at")
    def when_shown(self, restore: RestoreRecord) -> SafeString:
        return since(restore.started_at or restore.created_at)

    @display(description="Took")
    def took_shown(self, restore: RestoreRecord) -> str:
        return took(restore.started_at, restore.finished_at) or "–"

    @display(description="By")
    def by_shown(self, restore: RestoreRecord) -> SafeString:
        return format_html("{}{}", restore.requested_by, small(restore.reason[:90]))

    # --- one restore

    def get_urls(self) -> list[URLPattern]:
        live = path(
            "<int:object_id>/live/", self.admin_site.admin_view(self.live_view), name="backups_restorerecord_live"
        )
        return [live, *super().get_urls()]

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        allowed: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # of the theme
        restore = self.seen_row(request, object_id)
        may_stop = restore is not None and restore.state not in ENDED_RESTORE and restore.cancel_requested_at is None
        return allowed if may_stop else []

    @action(
        permission="restore_backup",
        description="Cancel",
        icon="cancel",
        dialog=Dialog(
            "Cancel this restore",
            "Before the swap it just ends. After it, everything is put back from the safety backup.",
            submit="Cancel it",
        ),
    )
    def cancel(self, request: HttpRequest, form: Any, object_id: str) -> None:
        restore = self.the_row(request, object_id)
        requests.request_cancel(restore, actor=who(request))
        messages.info(request, f"{restore.name} was asked to stop.")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = dict(extra_context or {})
        restore = self.seen_row(request, object_id)
        if restore is not None and self.has_view_permission(request, restore):
            context |= {"show_history": False, "title": restore.name, **restore_page(restore, clock.now())}
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    def live_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """The steps, while they go on."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        restore = RestoreRecord.objects.select_related("record", "safety_record").filter(pk=object_id).first()
        if restore is None:
            raise Http404
        response = render(request, "admin/backups/restore_live.html", restore_page(restore, clock.now()))
        response["Cache-Control"] = "no-store"
        if restore.state in ENDED_RESTORE:
            response["HX-Trigger"] = MOVED
        return response


def restore_page(restore: RestoreRecord, now: datetime) -> dict[str, Any]:
    """The context of a restore's page and of its live part."""
    ended = restore.state in ENDED_RESTORE
    safety = restore.safety_record
    return {
        "restore": restore,
        "ended": ended,
        "state": state_badge(restore.state, RESTORE_STATES),
        "ending": _ENDINGS.get(restore.state, ""),
        "way": way(restore.state, restore.steps or []),
        "steps": [_step(one, now) for one in restore.steps or [] if isinstance(one, dict)],
        "live_url": reverse("admin:backups_restorerecord_live", args=(restore.pk,)),
        "record_url": reverse("admin:backups_backuprecord_change", args=(restore.record_id,)),
        "safety_url": reverse("admin:backups_backuprecord_change", args=(safety.pk,)) if safety else "",
        "events": [
            {
                "state": state_badge(event.to_state, RESTORE_STATES),
                "when": since(event.at, now=now),
                "reason": event.reason,
                "actor": event.actor,
            }
            for event in restore.events.order_by("-at", "-pk")[:60]
        ],
        "docs": docs_link("restore"),
        "facts": [
            (name, shown)
            for name, shown in (
                ("Parts", ", ".join(map(str, restore.artifacts))),
                ("Asked for by", restore.requested_by),
                ("Reason", restore.reason),
                ("Services", _services(restore.options or {})),
                ("Started", since(restore.started_at, now=now) if restore.started_at else ""),
                ("Took", took(restore.started_at, restore.finished_at)),
                ("Health score after it", f"{restore.score} of 100" if restore.score is not None else ""),
            )
            if shown != ""
        ],
    }


def way(state: str, steps: list[Any]) -> list[dict[str, Any]]:
    """The states of the way with what has become of each: done, where it is now, or to come."""
    if state in ("refused", "cancelled"):
        return []
    gone_back = state in ("rolling_back", "rolled_back", "failed")
    reached = WAY.index(state) if state in WAY else -1
    if gone_back:
        reached = max((_place(one) for one in steps if isinstance(one, dict)), default=0)
    shown = []
    for place, name in enumerate(WAY):
        if gone_back:
            kind = "done" if place < reached else "failed" if place == reached else "waiting"
        elif state == "done":
            kind = "done"
        else:
            kind = "done" if place < reached else "running" if place == reached else "waiting"
        text, _, icon = RESTORE_STATES[name]
        shown.append({"name": text, "kind": kind, "icon": STEP_STATES[kind][2] if kind != "running" else icon})
    if gone_back:
        text, _, icon = RESTORE_STATES[state]
        shown.append({"name": text, "kind": "failed" if state == "failed" else "back", "icon": icon})
    return shown


_PLACES = {
    "preflight": 0, "safety_backup": 1, "stop": 2, "prepare": 3, "validate": 4, "swap": 5, "start": 6,
    "check_health": 7, "discard": 8,
}  # fmt: skip


def _place(step: Mapping[str, Any]) -> int:
    return _PLACES.get(str(step.get("step")), 0)


def _step(step: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    name = str(step.get("step", ""))
    started, finished = _moment(step.get("started_at")), _moment(step.get("finished_at"))
    seconds = ((finished or now) - started).total_seconds() if started else None
    return {
        "name": _STEPS.get(name, name.replace("_", " ").capitalize()),
        "artifact": step.get("artifact", ""),
        "badge": state_badge(str(step.get("status", "")), STEP_STATES),
        "detail": step.get("detail", ""),
        "took": human_seconds(max(0.0, seconds)) if seconds is not None else "",
    }


def _moment(text: object) -> datetime | None:
    if isinstance(text, datetime):
        return text
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) and text else None
    except ValueError:
        return None


def _services(options: Mapping[str, Any]) -> SafeString | str:
    if not options.get("stop_services") and not options.get("services"):
        return "left running"
    names = ", ".join(map(str, options.get("services") or ())) or "those that can be controlled"
    return format_html("{} {}", badge("stopped meanwhile", "warn", "stop_circle"), names)
