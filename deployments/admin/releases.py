"""Releases in the admin: added, looked at, never changed."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Exists, Max, OuterRef, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import Dialog, OpsModelAdmin, action, badge, display, since
from controlplane.kernel import clock
from deployments.engine.requests import request_deployment
from deployments.models import Deployment, Release, Service, ServiceState

from .access import DeploymentVerbs
from .asking import back_to, leads_to
from .base import OurMedia, the_row, who
from .dialogs import MaybeReasonForm, ReasonForm
from .words import code, share, small, state_badge


class ReleaseForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """A new release. Which commit, tree or image it is, is found out when it is fetched for the first time."""

    class Meta:
        model = Release
        fields = ("service", "version", "source_kind", "source", "ref", "forward_only", "notes")
        labels = {"source_kind": "Source", "source": "Where it is", "ref": "Branch, tag or commit"}  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "service" in self.fields:
            self.fields["service"].queryset = Service.objects.defer("secret_environ")  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if not self.instance.pk:
            self.instance.created_at = clock.now()
        return data


@admin.register(Release)
class ReleaseAdmin(DeploymentVerbs, OpsModelAdmin[Release]):
    """One row per version of a service."""

    class Media(OurMedia):
        pass

    form = ReleaseForm
    list_display = ("version_shown", "service_shown", "digest_shown", "source_shown", "serves_shown", "created_shown")
    list_display_links = ("version_shown",)
    list_filter = ("service", "source_kind", "forward_only", "created_at")
    search_fields = ("version", "service__name", "source", "digest", "notes", "created_by")
    search_help_text = "Version, service, source, digest or person"
    ordering = ("-created_at", "-pk")
    radio_fields = {"source_kind": admin.VERTICAL}  # noqa: RUF012  (Django's own style)
    readonly_fields = ("digest_shown", "serves_shown", "created_shown", "last_shown")
    empty_state = (
        "A release is one version of a service: a commit, a directory or an image. Add the first one, "
        "or let “Deploy” on a service make it."
    )
    actions_row = ("deploy_this", "back_to")
    actions_detail = ("deploy_this", "back_to")

    def has_change_permission(self, request: HttpRequest, obj: Release | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Release | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Release]:
        """With where each serves: the split of its service's state, read in one query for all."""
        state = Prefetch("service__state", queryset=ServiceState.objects.only("service_id", "split", "current_id"))
        rows: QuerySet[Any] = super().get_queryset(request).select_related("service").defer("service__secret_environ")
        done = Deployment.objects.filter(release=OuterRef("pk"), state="succeeded")
        annotated: QuerySet[Any] = rows.prefetch_related(state).annotate(
            last_at=Max("deployments__created_at"),
            living=Exists(Release.objects.filter(pk=OuterRef("pk"), instances__stopped_at__isnull=True)),
            did_serve=Exists(done),
        )
        return annotated

    @display(description="Version", ordering="version")
    def version_shown(self, release: Release) -> SafeString:
        only = badge("Forward-only", "warn", "block") if release.forward_only else ""
        return format_html('<span class="zt-nowrap">{}</span> {}', release.version, only)

    @display(description="Service", ordering="service__name")
    def service_shown(self, release: Release) -> str:
        return release.service.name

    @display(description="Digest", ordering="digest")
    def digest_shown(self, release: Release) -> SafeString | str:
        if not release.digest:
            return badge("not fetched yet", "muted", "download")
        text = release.digest if len(release.digest) <= 24 else f"{release.digest[:24]}…"
        return format_html('<span class="zt-hash" title="{}">{}</span>', release.digest, text)

    @display(description="Source", ordering="source")
    def source_shown(self, release: Release) -> SafeString:
        ref = f" at {release.ref}" if release.ref else ""
        return format_html("{}{}", code(release.source), small(f"{release.get_source_kind_display()}{ref}"))

    @display(description="Serves")
    def serves_shown(self, release: Any) -> SafeString | str:
        state = getattr(release.service, "state", None) if release.service_id else None
        permille = (state.split or {}).get(release.version, 0) if state else 0
        if permille:
            return badge(f"{share(permille)} of the traffic", "ok", "lan")
        if state is not None and state.current_id == release.pk:
            return badge("everybody", "ok", "lan")
        return badge("instances only", "muted", "dns") if getattr(release, "living", False) else "–"

    @display(description="Made", ordering="created_at")
    def created_shown(self, release: Release) -> SafeString:
        return format_html("{}{}", since(release.created_at), small(release.created_by and f"by {release.created_by}"))

    @display(description="Deployments")
    def last_shown(self, release: Release) -> SafeString | str:
        newest = list(release.deployments.order_by("-created_at")[:5])
        lines = [format_html("{} {}", state_badge(one.state), since(one.created_at)) for one in newest]
        return format_html("{}" * len(lines), *(format_html("<div>{}</div>", line) for line in lines)) if lines else "–"

    def get_fieldsets(self, request: HttpRequest, obj: Release | None = None) -> Any:
        own = ["version", "source_kind", "source", "ref", "forward_only", "notes"]
        if obj is None:
            return [(None, {"fields": ["service", *own]})]
        return [
            (None, {"fields": ["service", "serves_shown", "digest_full", "created_shown", "last_shown"]}),
            ("As it was made", {"fields": own}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Release | None = None) -> Any:
        return (*super().get_readonly_fields(request, obj), "digest_full")

    @display(description="Digest")
    def digest_full(self, release: Release) -> SafeString | str:
        return code(release.digest) or "found out when it is fetched for the first time"

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"source_kind": "git", **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: Release, form: Any, change: bool) -> None:
        obj.created_by = who(request)
        super().save_model(request, obj, form, change)

    # --- actions

    @action(
        permission="start_deployment",
        description="Deploy this",
        icon="rocket_launch",
        url_path="deploy",
        dialog=Dialog(
            "Deploy this release",
            "It goes through the service's checks, its backup and its stages.",
            MaybeReasonForm,
            "Deploy",
        ),
    )
    def deploy_this(self, request: HttpRequest, form: MaybeReasonForm, object_id: str) -> HttpResponse:
        release = the_row(self, request, object_id)
        return leads_to(
            request,
            request_deployment(
                release.service, release, trigger=Deployment.Trigger.MANUAL, requested_by=who(request),
                reason=form.cleaned_data["reason"],
            ),
        )  # fmt: skip

    @action(
        permission="roll_back_deployment",
        description="Roll back to this",
        icon="undo",
        url_path="back-to",
        dialog=Dialog(
            "Roll back to this release",
            "Everybody gets it again, at once and without its checks and stages. It must have served everybody before.",
            ReasonForm,
            "Roll back to it",
        ),
    )
    def back_to(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        return back_to(request, the_row(self, request, object_id), form.cleaned_data["reason"])

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """One that never served everybody cannot be rolled back to."""
        allowed: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # of the theme
        did = Deployment.objects.filter(release_id=object_id, state="succeeded").exists()
        return [one for one in allowed if did or not one.action_name.endswith("_back_to")]
