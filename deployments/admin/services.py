"""Services in the admin: where they run, how a release reaches their users, and what serves now."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Case, Count, OuterRef, Q, QuerySet, Subquery, Value, When
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import (
    Dialog,
    HistoryModelAdmin,
    OpsStackedInline,
    OpsTabularInline,
    action,
    ask_again,
    badge,
    display,
    since,
)
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from deployments.machines import ACTIVE, DEPLOYMENT
from deployments.models import Deployment, DeploymentStage, Instance, PipelineStep, Release, Service

from . import target_fields
from .access import DeploymentVerbs
from .asking import deploy
from .base import OurMedia, own_urls, the_row
from .dialogs import DeployForm
from .instance_rows import log_of
from .line import LineActions, line_now
from .plan_preview import plan_preview
from .service_forms import StageForm, StageFormSet, StepForm, form_class, stored_secrets
from .service_page import HEALTHY, service_top, serving
from .words import PHASES, counted, link, small, state_badge, when_cell

_EDGE = ["edge_port", ("route_prefix", "sticky"), "route_hosts"]
_HEALTH = [
    ("health_path", "document_path"), "health_map", ("min_ready_seconds", "readiness_deadline_seconds"),
    ("health_check_timeout_seconds", "min_health_score"),
]  # fmt: skip
_CARE = [
    ("gradual_rollout", "rollback_enabled"), ("inconclusive_policy", "inconclusive_extensions"),
    ("slow_request_ms", "error_budget"), ("busy_policy", "drain_timeout_seconds"), "keep_releases",
]  # fmt: skip


class StageInline(OpsTabularInline[DeploymentStage, Service]):
    """The plan: shares that rise to 100 %."""

    model = DeploymentStage
    form = StageForm
    formset = StageFormSet
    verbose_name = "stage"
    verbose_name_plural = "Stages: the shares of traffic, one after the other"
    ordering = ("percentage",)

    def get_extra(self, request: HttpRequest, obj: Service | None = None, **kwargs: Any) -> int:
        """A new service begins with the seed's plan."""
        return 0 if obj is not None else 3


class StepInline(OpsStackedInline[PipelineStep, Service]):
    """What is run on this host for each release. Who may not change steps sees them and cannot type."""

    model = PipelineStep
    form = StepForm
    verbose_name = "step"
    verbose_name_plural = "Pipeline: commands on this host, as this user, for each release"
    fields = (
        ("name", "enabled"), ("phase", "position"), ("kind", "timeout_seconds"), "command", "working_directory",
        ("blocks", "unknown_policy"),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[PipelineStep]:
        """As they run: checks, builds, validations."""
        phases = [When(phase=name, then=Value(number)) for number, name in enumerate(PHASES)]
        return super().get_queryset(request).order_by(Case(*phases), "position", "pk")


class ReleaseInline(OpsTabularInline[Release, Service]):
    """The newest releases; they are made on a page of their own."""

    model = Release
    fields = readonly_fields = ("version_shown", "source_kind", "source", "made_shown")
    verbose_name_plural = "Newest releases"
    max_num = 0
    can_delete = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Release]:
        """Few: an inline's own limit would have to know the service, so the service's newest are told by rank."""
        newer = Release.objects.filter(service=OuterRef("service"), pk__gt=OuterRef("pk")).order_by()
        rank = newer.values("service").annotate(count=Count("pk")).values("count")
        ranked: QuerySet[Any] = super().get_queryset(request).annotate(newer=Subquery(rank))
        return ranked.filter(Q(newer__isnull=True) | Q(newer__lt=5)).defer("notes")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description="Version")
    def version_shown(self, release: Release) -> SafeString:
        return link(reverse("admin:deployments_release_change", args=(release.pk,)), release.version)

    @display(description="Made")
    def made_shown(self, release: Release) -> SafeString:
        return when_cell(release.created_at, release.created_by and f"by {release.created_by}")


@admin.register(Service)
class ServiceAdmin(LineActions, DeploymentVerbs, HistoryModelAdmin[Service]):
    """One row per service."""

    class Media(OurMedia):
        pass

    list_display = ("name_shown", "release_shown", "instances_shown", "state_shown", "last_shown")
    list_display_links = ("name_shown",)
    list_filter = ("enabled", "target_kind", "environment", "region")
    search_fields = ("name", "description")
    ordering = ("name",)
    list_before_template = "admin/deployments/line.html"
    change_form_before_template = "admin/deployments/service_top.html"
    readonly_fields = ("settings_shown", "environ_shown", "secrets_shown")
    inlines = (StageInline, StepInline, ReleaseInline)
    empty_state = (
        "A service is a thing that is deployed: its instances run on this machine, as processes or containers, behind "
        "the edge. Add the first one; docs/deployments.md shows the way step by step."
    )
    actions_list = ("stop_the_line", "let_it_run")
    actions_row = ("deploy", "plan")
    actions_detail = ("deploy", "plan")

    @property
    def conditional_fields(self) -> dict[str, str]:
        return target_fields.conditions()

    # --- the list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        """Without the secrets: a list needs none, and one that cannot be opened must not take the page down."""
        own = Deployment.objects.filter(service=OuterRef("pk"))
        related = ("state__current", "backup_plan")
        rows: QuerySet[Any] = super().get_queryset(request).select_related(*related).defer("secret_environ")
        annotated: QuerySet[Any] = rows.annotate(
            healthy=Count("all_instances", filter=HEALTHY, distinct=True),
            last_id=Subquery(
                own.filter(state__in=DEPLOYMENT.terminal_states).order_by("-created_at", "-pk").values("pk")[:1]
            ),
            active_id=Subquery(own.filter(state__in=ACTIVE).values("pk")[:1]),
        )
        return annotated

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The last and the active deployments of the shown rows come in one query."""
        changelist = super().get_changelist_instance(request)
        rows = list(changelist.result_list)
        wanted = {pk for row in rows for pk in (row.last_id, row.active_id) if pk}
        found = Deployment.objects.select_related("release").in_bulk(wanted)
        for row in rows:
            row.page_last, row.page_active = found.get(row.last_id), found.get(row.active_id)
        changelist.result_list = rows
        return changelist

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": "Services", **(extra_context or {})}
        if request.method == "GET" and self.has_view_permission(request):
            context["line"] = line_now(request)
        response: HttpResponse = super().changelist_view(request, context)
        return response

    @display(description="Service", ordering="name")
    def name_shown(self, service: Service) -> SafeString:
        return format_html("{}{}", service.name, small(f"{service.environment}, {service.region}"))

    @display(description="Serves", ordering="state__current__version")
    def release_shown(self, service: Service) -> SafeString:
        return serving(service)

    @display(description="Instances healthy", ordering="healthy")
    def instances_shown(self, service: Any) -> SafeString:
        words = f"{service.healthy} of {service.instances}"
        if service.healthy < service.instances and service.enabled:
            return badge(words, "bad" if service.healthy == 0 else "warn")
        return badge(words, "ok" if service.enabled else "muted")

    @display(description="State")
    def state_shown(self, service: Any) -> SafeString:
        if service.page_active is not None:
            return self._deployment(service.page_active)
        state = getattr(service, "state", None)
        if not service.enabled:
            return badge("Off", "muted", "pause_circle")
        if state is not None and state.held:
            return badge("Held for a restore", "warn", "settings_backup_restore")
        if state is None or state.current_id is None:
            return badge("Nothing deployed", "muted", "hourglass_empty")
        return badge("Steady", "ok")

    @display(description="Last deployment", ordering="last_id")
    def last_shown(self, service: Any) -> SafeString:
        return self._deployment(service.page_last) if service.page_last else small("none yet")

    def _deployment(self, deployment: Deployment) -> SafeString:
        address = reverse("admin:deployments_deployment_change", args=(deployment.pk,))
        line = format_html("{} {}", link(address, deployment.release.version), since(deployment.created_at))
        return format_html('{}<small class="zt-line">{}</small>', state_badge(deployment.state), line)

    # --- the form

    def get_form(self, request: HttpRequest, obj: Service | None = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = form_class()
        return super().get_form(request, obj, change=change, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Service | None = None) -> Any:
        """Instances and folders bear the service's name: it stays once there is a release."""
        fields = tuple(super().get_readonly_fields(request, obj))
        return (*fields, "name") if obj is not None and obj.releases.exists() else fields

    def get_fieldsets(self, request: HttpRequest, obj: Service | None = None) -> Any:
        runs: list[Any] = ["target_kind", *target_fields.all_fields(), "target_settings"]
        variables = ["environ", "secret_variables"]
        if obj is not None and not self.has_change_permission(request, obj):
            runs, variables = ["target_kind", "settings_shown"], ["environ_shown", "secrets_shown"]
        return [
            (None, {"fields": ["name", "description", "enabled", ("environment", "region")]}),
            ("Where it runs", {"fields": [*runs, ("instances", "max_surge"), *variables]}),
            ("At the edge", {"fields": _EDGE}),
            ("Health", {"fields": _HEALTH}),
            ("How careful a deployment is", {"fields": _CARE}),
            ("Backup before each deployment", {"fields": [("backup_plan", "backup_level")]}),
        ]

    @display(description="Settings")
    def settings_shown(self, service: Service) -> str:
        return ", ".join(f"{name}: {value}" for name, value in service.target_settings.items()) or "–"

    @display(description="Variables")
    def environ_shown(self, service: Service) -> str:
        return ", ".join(f"{name}={value}" for name, value in service.environ.items()) or "–"

    @display(description="Secret variables")
    def secrets_shown(self, service: Service) -> str:
        names = stored_secrets(service)
        if names is None:
            return "set, but not readable with this key"
        return f"{counted(len(names), 'variable')} set: {', '.join(sorted(names))}" if names else "none"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = dict(extra_context or {})
        service = self.get_object(request, object_id) if request.method == "GET" else None
        if service is not None and self.has_view_permission(request, service):
            context |= {"title": service.name, "top": service_top(service, clock.now()), "line": line_now(request)}
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    # --- pages beside the form

    def get_urls(self) -> list[URLPattern]:
        log = ("<int:object_id>/instances/<int:instance_id>/log/", self.instance_log_view, "instance_log")
        preview = ("<int:object_id>/preview/", self.preview_view, "preview")
        return [*own_urls(self, log, preview), *super().get_urls()]

    def instance_log_view(self, request: HttpRequest, object_id: int, instance_id: int) -> HttpResponse:
        """The end of what an instance said."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        rows = Instance.objects.select_related("service", "release").filter(service_id=object_id, pk=instance_id)
        instance = rows.defer("service__secret_environ").first()
        if instance is None:
            raise Http404
        text, note = log_of(instance)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Log of {instance.name}", "opts": self.opts, "media": self.media, "text": text, "note": note,
            "instance": instance, "back": reverse("admin:deployments_service_change", args=(object_id,)),
        }  # fmt: skip
        return TemplateResponse(
            request, "admin/deployments/instance_log.html", context, headers={"Cache-Control": "no-store"}
        )

    def preview_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """What a deployment would do; it changes nothing."""
        service = self.get_object(request, str(object_id)) if self.has_view_permission(request) else None
        if not self.has_view_permission(request):
            raise PermissionDenied
        if service is None:
            raise Http404
        asked = request.GET.get("release", "")
        context = {
            **self.admin_site.each_context(request),
            "title": f"What a deployment of {service.name} would do", "opts": self.opts, "media": self.media,
            "service": service, "line": line_now(request),
            "back": reverse("admin:deployments_service_change", args=(object_id,)),
            **plan_preview(service, int(asked) if asked.isdecimal() else None),
        }  # fmt: skip
        return TemplateResponse(request, "admin/deployments/plan.html", context)

    # --- actions

    @action(
        permission="start_deployment",
        description="Deploy",
        icon="rocket_launch",
        variant="primary",
        url_path="deploy",
        dialog=Dialog(
            "Deploy a release",
            "It is fetched, checked, built and backed up; then it gets its traffic stage by stage.",
            DeployForm,
            "Deploy",
        ),
    )
    def deploy(self, request: HttpRequest, form: DeployForm, object_id: str) -> HttpResponse:
        try:
            return deploy(request, the_row(self, request, object_id), form)
        except Refused as refused:
            return ask_again(request, form, refused, "reason" if form.cleaned_data["release"] else "version")

    @action(permission="look", description="What would happen", icon="visibility", navigates=True, url_path="plan")
    def plan(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:deployments_service_preview", args=(object_id,)))
