"""The operator's side of load shedding: one row, its history, and whether it is in force."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import SafeString

from controlplane.console.base import HistoryModelAdmin, add_navigation, badge, display, theme_widget

from .models import LoadSheddingPolicy
from .shedding import rows


class LinesField(forms.CharField):
    """A list of texts, one a line."""

    widget = forms.Textarea

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(list(initial or []) != self.to_python(data))


class LoadSheddingForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    path_prefixes = LinesField(
        label="Paths", help_text="One a line. Memory, connections and pressure count for paths that begin with one."
    )
    exempt_roles = LinesField(
        label="Exempt roles", required=False, help_text="One a line. Never refused for memory or connections."
    )

    class Meta:
        model = LoadSheddingPolicy
        fields = (
            "active",
            "controller",
            "lag_ms",
            "queue_wait_ms",
            "low_share_percent",
            "middle_share_percent",
            "memory_limit_percent",
            "connections_limit",
            "path_prefixes",
            "exempt_roles",
            "pressure_percent",
            "delay_step_ms",
            "most_delay_ms",
            "note",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            theme_widget(field)


@admin.register(LoadSheddingPolicy)
class LoadSheddingAdmin(HistoryModelAdmin[LoadSheddingPolicy]):
    """One row: its list is its form."""

    form = LoadSheddingForm
    readonly_fields = ("force_shown",)
    radio_fields = {"controller": admin.VERTICAL}  # noqa: RUF012  (Django's own style)
    fieldsets = (
        (None, {"fields": ("force_shown", "active")}),
        (
            "Requests in hand",
            {
                "fields": (
                    "controller",
                    ("lag_ms", "queue_wait_ms"),
                    ("low_share_percent", "middle_share_percent"),
                )
            },
        ),
        (
            "Fixed limits",
            {"fields": (("memory_limit_percent", "connections_limit"), ("path_prefixes", "exempt_roles"))},
        ),
        ("Rising pressure", {"fields": ("pressure_percent", ("delay_step_ms", "most_delay_ms"))}),
        ("Why", {"fields": ("note",)}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: LoadSheddingPolicy | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        row = LoadSheddingPolicy.the_row()
        return HttpResponseRedirect(reverse("admin:ratelimits_loadsheddingpolicy_change", args=(row.pk,)))

    @display(description="In force")
    def force_shown(self, row: LoadSheddingPolicy | None) -> SafeString:
        held = rows.version_in_force()
        version = row.version if row else 0
        if held is None:
            return badge("unknown: Redis does not answer", "muted", "help")
        if held == version:
            return badge(f"version {version}" if version else "as built in", "ok")
        return badge(f"version {version} saved, version {held} in force: published within 10 s", "warn")

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Says after a save whether it is in force: it is published once the transaction is committed."""
        before = rows.saved_policy().version
        answer = super().changeform_view(request, object_id, form_url, extra_context)
        version = rows.saved_policy().version
        if version > before:
            _say_whether_in_force(request, version)
        return answer


def _say_whether_in_force(request: HttpRequest, version: int) -> None:
    if rows.version_in_force() == version:
        messages.success(request, f"In force as version {version}: every process obeys within about a second.")
    else:
        messages.warning(
            request, f"Saved as version {version}, not yet in force: it is published within 10 s after Redis answers."
        )


add_navigation(
    "Limits",
    "Load shedding",
    "compress",
    "admin:ratelimits_loadsheddingpolicy_changelist",
    "ratelimits.view_loadsheddingpolicy|ratelimits.change_loadsheddingpolicy",
)
