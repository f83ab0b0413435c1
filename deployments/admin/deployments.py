"""The history of deployments, and the page of each."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import display, since
from controlplane.kernel import clock
from deployments.models import Deployment, StepRun

from .access import may
from .base import dialog_link, own_urls
from .deployment_page import deployment_page, live_context
from .filters import StateFilter
from .line import LineActions, line_now
from .points import points_of
from .steering import Steering
from .step_log import step_log
from .words import share, short, small, state_badge, took

NOTHING = format_html('<span class="zt-muted-text">{}</span>', "–")


@admin.register(Deployment)
class DeploymentAdmin(LineActions, Steering):
    """What was deployed where, how it ended and why; the way back from here."""

    list_display = ("name_shown", "release_shown", "state_shown", "exposure_shown", "when_shown", "took_shown", "back")
    list_display_links = ("name_shown",)
    list_filter = ("service", StateFilter, "trigger", "created_at")
    list_per_page = 30
    search_fields = ("name", "service__name", "release__version", "requested_by", "reason")
    search_help_text = "Id, service, version, person or reason"
    ordering = ("-created_at", "-pk")
    list_before_template = "admin/deployments/line.html"
    change_form_template = "admin/deployments/deployment.html"
    empty_state = (
        "Nothing was deployed yet. Open a service and choose “Deploy”: it asks for a release and shows the way."
    )
    fields: ClassVar[Any] = ("name",)
    actions_list = ("stop_the_line", "let_it_run")

    # --- the list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        related = ("service", "release", "from_release", "backup")
        return super().get_queryset(request).select_related(*related).defer("service__secret_environ")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        rows = list(changelist.result_list)
        allowed = may(request, "roll_back_deployment")
        for row in rows:
            row.page_may_go_back = allowed and row.state == "succeeded"
        changelist.result_list = rows
        return changelist

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context: dict[str, Any] = {"title": "Deployments", **(extra_context or {})}
        if request.method == "GET" and self.has_view_permission(request):
            context["line"] = line_now(request)
        response: HttpResponse = super().changelist_view(request, context)
        return response

    @display(description="Deployment", ordering="name")
    def name_shown(self, deployment: Deployment) -> SafeString:
        by = f", {deployment.requested_by}" if deployment.requested_by else ""
        line = f"{deployment.get_trigger_display()}{by}"
        return format_html('<span class="zt-nowrap">{}</span>{}', deployment.name, small(line))

    @display(description="Release", ordering="release__version")
    def release_shown(self, deployment: Deployment) -> SafeString:
        old = f"in place of {deployment.from_release.version}" if deployment.from_release else "the first"
        words = f"{deployment.service.name} {deployment.release.version}"
        return format_html('<span class="zt-nowrap">{}</span>{}', words, small(old))

    @display(description="State", ordering="state")
    def state_shown(self, deployment: Deployment) -> SafeString:
        note = deployment.error or (deployment.pause_reason if deployment.state == "paused" else "")
        return format_html("{}{}", state_badge(deployment.state), small(short(note)))

    @display(description="Traffic", ordering="effective_permille")
    def exposure_shown(self, deployment: Deployment) -> SafeString:
        if deployment.is_over and deployment.state != "succeeded":
            return NOTHING
        asked = share(deployment.requested_permille)
        differs = deployment.effective_permille not in (None, deployment.requested_permille)
        note = f"really {share(deployment.effective_permille)}" if differs else ""
        return format_html("{}{}", asked, small(note))

    @display(description="When", ordering="created_at")
    def when_shown(self, deployment: Deployment) -> SafeString:
        return since(deployment.created_at)

    @display(description="Took")
    def took_shown(self, deployment: Deployment) -> SafeString:
        words = took(deployment.started_at, deployment.finished_at)
        return format_html('<span class="zt-nowrap">{}</span>', words) if words else NOTHING

    @display(description="Way back")
    def back(self, deployment: Deployment) -> SafeString:
        if not deployment.page_may_go_back:  # type: ignore[attr-defined]  # put there for the page
            return NOTHING
        address = reverse("admin:deployments_deployment_back_to", args=(deployment.pk,))
        return dialog_link(address, "Roll back to this", "undo")

    # --- one deployment

    def get_urls(self) -> list[URLPattern]:
        return [
            *own_urls(
                self,
                ("<int:object_id>/live/", self.live_view, "live"),
                ("<int:object_id>/points/", self.points_view, "points"),
                ("<int:object_id>/steps/<int:step_id>/log/", self.step_log_view, "step_log"),
            ),
            *super().get_urls(),
        ]

    def live_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """What changes by itself, asked for every two seconds while it goes on."""
        deployment = self._seen(request, object_id)
        response = render(
            request, "admin/deployments/deployment_live.html", {**live_context(deployment, clock.now()), "oob": True}
        )
        response["Cache-Control"] = "no-store"
        return response

    def points_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        return JsonResponse(points_of(self._seen(request, object_id)), headers={"Cache-Control": "no-store"})

    def step_log_view(self, request: HttpRequest, object_id: int, step_id: int) -> HttpResponse:
        """What a step has said from ``offset`` on."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = StepRun.objects.filter(pk=step_id, deployment_id=object_id).first()
        if run is None:
            raise Http404
        asked = request.GET.get("offset", "0")
        offset = int(asked) if asked.isdecimal() else 0
        return JsonResponse(step_log(run, offset), headers={"Cache-Control": "no-store"})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = dict(extra_context or {})
        deployment = self.seen_row(request, object_id)
        if deployment is not None and self.has_view_permission(request, deployment):
            title = f"{deployment.service.name} {deployment.release.version}"
            context |= {"show_history": False, "title": title, "subtitle": deployment.name}
            context |= deployment_page(deployment, clock.now())
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    def _seen(self, request: HttpRequest, object_id: int) -> Deployment:
        if not self.has_view_permission(request):
            raise PermissionDenied
        deployment = self.seen_row(request, str(object_id))
        if deployment is None:
            raise Http404
        return deployment
