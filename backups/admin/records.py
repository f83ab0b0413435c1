"""The history of backups, and the page of each restore point."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import BackupRecord
from controlplane.console.base import badge, display, relative_text, since
from controlplane.kernel import clock

from .filters import ProofFilter, StateFilter
from .live import live_response
from .overview import overview
from .record_actions import RecordActions
from .record_page import record_page
from .standing import Standing, proof_cell, restore_words, standing_of_record, with_artifacts
from .words import RECORD_STATES, ratio, sizes, small, state_badge, took, trigger_label

NOTHING = format_html('<span class="zt-muted-text">{}</span>', "–")


@admin.register(BackupRecord)
class BackupRecordAdmin(RecordActions):
    """What was saved, when each was last proven to restore, and how long that takes."""

    list_display = (
        "name_shown",
        "state_shown",
        "when_shown",
        "size_shown",
        "proof_shown",
        "restore_shown",
        "kept_shown",
    )
    list_display_links = ("name_shown",)
    list_filter = ("plan", StateFilter, ProofFilter, "trigger", "created_at")
    list_per_page = 30
    search_fields = ("name", "plan_name", "requested_by", "reason")
    search_help_text = "Id, plan, person or reason"
    ordering = ("-created_at", "-pk")
    list_before_template = "admin/backups/overview.html"
    change_form_template = "admin/backups/record.html"
    empty_state = "The first run makes one. Run a backup now, or wait for the plan's time."
    fields: ClassVar[Any] = ("name",)

    # --- the list

    def get_queryset(self, request: HttpRequest) -> QuerySet[BackupRecord]:
        return super().get_queryset(request).select_related("plan", "target").defer("target__secret_access_key")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The standings of the shown rows come from their artifacts, in one query."""
        changelist = super().get_changelist_instance(request)
        rows = list(changelist.result_list)
        found = with_artifacts(BackupRecord.objects.filter(pk__in=[row.pk for row in rows]).only("pk"))
        standings = {one.pk: standing_of_record(one) for one in found}
        now = clock.now()
        for row in rows:
            row.page_standing, row.page_now = standings[row.pk], now
        changelist.result_list = rows
        return changelist

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": "Backups", "live_url": reverse("admin:backups_backuprecord_live"), **(extra_context or {})}
        if request.method == "GET" and self.has_view_permission(request):
            context["overview"] = overview(clock.now())
        response: HttpResponse = super().changelist_view(request, context)
        return response

    @display(description="Backup", ordering="name")
    def name_shown(self, record: BackupRecord) -> SafeString:
        by = f" by {record.requested_by}" if record.requested_by else ""
        line = f"{record.plan_name} · {trigger_label(record)}{by}"
        return format_html('<span class="zt-nowrap">{}</span>{}', record.name, small(line))

    @display(description="State", ordering="state")
    def state_shown(self, record: BackupRecord) -> SafeString:
        note = ""
        if record.state in ("failed", "queued", "running") and record.error:
            note = record.error if len(record.error) <= 90 else f"{record.error[:90]}…"
        elif record.warnings:
            count = len(record.warnings)
            note = f"{count} warning{'' if count == 1 else 's'}"
        return format_html("{}{}", state_badge(record.state, RECORD_STATES), small(note))

    @display(description="When", ordering="created_at")
    def when_shown(self, record: BackupRecord) -> SafeString:
        ended = record.committed_at or record.finished_at
        length = took(record.started_at, ended)
        return format_html("{}{}", since(record.started_at or record.created_at), small(length and f"took {length}"))

    @display(description="Size", ordering="stored_bytes")
    def size_shown(self, record: BackupRecord) -> SafeString:
        shown = format_html('<span class="zt-nowrap">{}</span>', sizes(record.plain_bytes, record.stored_bytes))
        return format_html("{}{}", shown, small(ratio(record.plain_bytes, record.stored_bytes)))

    @display(description="Proven")
    def proof_shown(self, record: BackupRecord) -> SafeString:
        if record.committed_at is None or record.state == "deleted":
            return NOTHING
        return proof_cell(_standing(record), record.page_now)  # type: ignore[attr-defined]  # put there for the page

    @display(description="Restores in")
    def restore_shown(self, record: BackupRecord) -> SafeString:
        if record.committed_at is None:
            return NOTHING
        return format_html('<span class="zt-nowrap">{}</span>', restore_words(_standing(record)))

    @display(description="Kept because")
    def kept_shown(self, record: BackupRecord) -> SafeString:
        return kept_cell(record)

    # --- one record

    def get_urls(self) -> list[URLPattern]:
        def own(route: str, view: Any, name: str) -> URLPattern:
            found: URLPattern = path(route, self.admin_site.admin_view(view), name=f"backups_backuprecord_{name}")
            return found

        return [
            own("live/", self.live_view, "live"),
            own("<int:object_id>/live/", self.record_live_view, "record_live"),
            *super().get_urls(),
        ]

    def live_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return live_response(request, reverse("admin:backups_backuprecord_live"))

    def record_live_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        record = BackupRecord.objects.filter(pk=object_id).first()
        if record is None:
            raise Http404
        return live_response(request, reverse("admin:backups_backuprecord_record_live", args=(object_id,)), record)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = dict(extra_context or {})
        record = self.seen_row(request, object_id)
        if record is not None and self.has_view_permission(request, record):
            context |= {"show_history": False, "title": record.name, **record_page(record, clock.now())}
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response


def _standing(record: BackupRecord) -> Standing:
    found: Standing = record.page_standing  # type: ignore[attr-defined]  # put there for the page
    return found


def kept_cell(record: BackupRecord) -> SafeString:
    """Why retention keeps it, or what becomes of it."""
    if record.state == "expiring" and record.expires_at is not None:
        when = relative_text(record.expires_at, clock.now())
        return format_html("{}{}", badge(f"deleted {when}", "warn", "auto_delete"), small("can be undone until then"))
    if record.state == "deleting":
        return small(record.delete_error or "its objects are being removed")
    parts = []
    if record.pinned_at is not None:
        by = f"by {record.pinned_by}: {record.pin_reason}"
        parts.append(format_html('<span title="{}">{}</span>', by, badge("Pinned", "info", "keep")))
    if record.state == "committed" and record.keep_reasons:
        parts.append(small(", ".join(map(str, record.keep_reasons))))
    if not parts:
        return NOTHING
    return format_html("{}" * len(parts), *parts)
