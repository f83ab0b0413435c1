"""Backup sources in the admin: a form per kind, secrets that are never shown again, and “Test connection”."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import Artifact, BackupSource
from backups.sources.base import Finding, kinds
from controlplane.console.base import Dialog, HistoryModelAdmin, action, badge, display, since
from controlplane.kernel.errors import Refused, ZantaraError

from .access import may
from .base import OurMedia
from .findings import tested
from .source_forms import field_names, form_for
from .words import kind_label


class KindFilter(admin.SimpleListFilter):
    title, parameter_name = "kind", "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind.kind, kind.label) for kind in kinds]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BackupSource]) -> QuerySet[BackupSource]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(BackupSource)
class BackupSourceAdmin(HistoryModelAdmin[BackupSource]):
    """One row per thing that is saved."""

    class Media(OurMedia):
        pass

    list_display = ("name_shown", "kind_shown", "plans_shown", "saved_shown", "proof_shown", "state_shown")
    list_display_links = ("name_shown",)
    list_filter = (KindFilter, "enabled")
    search_fields = ("name",)
    ordering = ("name",)
    readonly_fields = ("kind_shown",)
    empty_state = "A source is one thing that is saved: a database, a vector store, files. Add the first one."
    actions_row = ("test_connection",)
    actions_detail = ("test_connection",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[BackupSource]:
        """Without the secrets: a list needs none, and one that cannot be opened must not take the page down."""
        own = Artifact.objects.filter(source=OuterRef("pk"))
        saved = own.filter(record__committed_at__isnull=False).order_by("-record__committed_at")
        drilled = own.filter(l3_at__isnull=False).order_by("-l3_at")
        rows: QuerySet[Any] = super().get_queryset(request).defer("secrets")
        annotated: QuerySet[Any] = rows.annotate(
            plan_count=Count("plans"),
            saved_at=Subquery(saved.values("record__committed_at")[:1]),
            restored_at=Subquery(drilled.values("l3_at")[:1]),
        )
        return annotated

    @display(description="Source", ordering="name")
    def name_shown(self, source: BackupSource) -> str:
        return source.name

    @display(description="Kind", ordering="kind")
    def kind_shown(self, source: BackupSource) -> SafeString:
        if source.kind not in kinds:
            return badge(f"{source.kind}: no code here has it", "bad")
        return format_html("{}", kind_label(source.kind))

    @display(description="In", ordering="plan_count")
    def plans_shown(self, source: Any) -> SafeString | str:
        if not source.plan_count:
            return badge("no plan", "warn")
        return "1 plan" if source.plan_count == 1 else f"{source.plan_count} plans"

    @display(description="Last saved", ordering="saved_at")
    def saved_shown(self, source: Any) -> SafeString:
        return since(source.saved_at)

    @display(description="Last restored in a drill", ordering="restored_at")
    def proof_shown(self, source: Any) -> SafeString:
        return since(source.restored_at)

    @display(description="State", ordering="enabled")
    def state_shown(self, source: BackupSource) -> SafeString:
        return badge("On", "ok") if source.enabled else badge("Off", "muted", "pause_circle")

    # --- the form

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> Any:
        """First the kind, then its form."""
        if request.GET.get("kind") in kinds or not self.has_add_permission(request):
            return super().add_view(request, form_url, extra_context)
        context = {
            **self.admin_site.each_context(request),
            "title": "Which kind of source?",
            "opts": self.opts,
            "kinds": [
                {"name": one.kind, "label": one.label, "description": one.description}
                for one in sorted(kinds, key=lambda kind: kind.label)
            ],
            "media": self.media,
        }
        return TemplateResponse(request, "admin/backups/kinds.html", context)

    def get_readonly_fields(self, request: HttpRequest, obj: BackupSource | None = None) -> Any:
        """Parts of sets bear the source's name, and a restore finds it by that: it stays once there is one."""
        fields = tuple(super().get_readonly_fields(request, obj))
        named = obj is not None and obj.artifacts.exists()
        return (*fields, "name") if named else fields

    def get_form(
        self, request: HttpRequest, obj: BackupSource | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        kind = _kind(request, obj)
        if kind in kinds:
            kwargs["form"] = form_for(kind)
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: BackupSource | None = None) -> Any:
        kind = _kind(request, obj)
        if kind not in kinds:
            return [(None, {"fields": ["name", "enabled", "kind_shown"]})]
        head = ["name", "enabled"] if obj is None else ["kind_shown", "name", "enabled"]
        if obj is not None and not self.has_change_permission(request, obj):
            return [(None, {"fields": [*head, "settings"]})]
        return [
            (None, {"fields": head, "description": kinds.get(kind).description}),
            (kinds.get(kind).label, {"fields": field_names(kind)}),
        ]

    # --- actions

    def has_test_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "test_backupsource")

    @action(
        permission="test",
        description="Test connection",
        icon="electrical_services",
        url_path="test",
        dialog=Dialog(
            "Test the connection", "The source is reached as a backup would reach it; nothing is saved.", submit="Test"
        ),
    )
    def test_connection(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            raise Refused("This source is gone.", remedy="Load the list again.")
        return tested(request, check_source(row))


def check_source(row: BackupSource) -> list[Finding]:
    """What the source itself says; an error of ours is a finding too."""
    try:
        return kinds.get(row.kind)(row.name, row.settings, row.secrets).check()
    except ZantaraError as problem:
        return [Finding("fail", str(problem))]


def _kind(request: HttpRequest, obj: BackupSource | None) -> str:
    return obj.kind if obj is not None else request.GET.get("kind", "")
