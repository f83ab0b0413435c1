"""The operator's side of the limits: profiles in the admin."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import structlog
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, models
from django.forms import Field
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import Dialog, HistoryModelAdmin, action, badge, display, since
from controlplane.kernel.errors import NotAuthentic, Refused, ZantaraError

from . import policies
from . import shedding_admin as _shedding_admin  # noqa: F401  (registers the shedding policy)
from .explain import explain_decision
from .facts import ProfileFacts, facts_of
from .forms import DurationField, ExplainForm, ProfileForm, ProfileRowForm, ResetCallerForm
from .models import PolicyVersion, RateLimitProfile, StaleProfile
from .usage import reset_caller, reset_key
from .wording import consequence, limit_words

log = structlog.get_logger(__name__)

V = TypeVar("V", bound=Callable[..., Any])
REDIS_AWAY = "Redis does not answer, so nothing is known."


def announces(view: V) -> V:
    """Says after a change whether it is in force, and turns a lost race into a message; nothing is saved then."""

    @wraps(view)
    def wrapper(self: ProfileAdmin, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method != "POST":
            return view(self, request, *args, **kwargs)
        before = PolicyVersion.current()
        try:
            answer = view(self, request, *args, **kwargs)
        except StaleProfile as stale:
            messages.error(request, str(stale))
            return HttpResponseRedirect(request.get_full_path())
        except IntegrityError:
            clash = RateLimitProfile._meta.constraints[0].violation_error_message
            messages.error(request, f"Nothing was saved. {clash}")
            return HttpResponseRedirect(request.get_full_path())
        version = PolicyVersion.current()
        if version > before:
            say_whether_in_force(request, version)
        return answer

    return wrapper  # type: ignore[return-value]  # same call, same answer


def say_whether_in_force(request: HttpRequest, version: int) -> None:
    held = policies.version_in_force()
    if held is not None and held >= version:
        messages.success(request, f"In force as version {version}: the next decision of every process obeys.")
    elif held is None:
        messages.warning(
            request,
            f"Saved as version {version}, not yet in force: Redis does not answer. It is published within 10 s after "
            "Redis is back; until then each profile's fail mode holds.",
        )
    else:
        messages.warning(
            request,
            f"Saved as version {version}, not yet in force: version {held} holds. It is published within 10 s.",
        )


@admin.register(RateLimitProfile)
class ProfileAdmin(HistoryModelAdmin[RateLimitProfile]):
    """Who may call how often."""

    form = ProfileForm
    list_display = (
        "role_shown",
        "limit_shown",
        "requests",
        "enforced",
        "active",
        "allowed_shown",
        "denied_shown",
        "callers_shown",
        "force_shown",
        "changed_shown",
    )
    list_display_links = ("role_shown",)
    list_editable = ("requests", "enforced", "active")
    list_filter = ("active", "enforced", "role")
    search_fields = ("role", "route_prefix", "subject", "message", "note")
    search_help_text = "Role, route prefix, subject, message or note"
    empty_state = (
        "No profiles, so nobody is limited. Add the first one: a role (“default” is everybody), and how many requests "
        "it may make per window."
    )
    readonly_fields = ("consequence_shown",)
    radio_fields = {"key": admin.VERTICAL, "fail_mode": admin.VERTICAL}  # noqa: RUF012  (Django's own style)
    fieldsets = (
        (None, {"fields": ("consequence_shown",)}),
        ("Who", {"fields": ("role", ("route_prefix", "subject"))}),
        (
            "How often",
            {
                "fields": (
                    "unlimited",
                    ("requests", "window_seconds"),
                    ("burst_requests", "burst_window_seconds"),
                    "message",
                )
            },
        ),
        ("How it is counted", {"fields": ("key",)}),
        ("When Redis is away", {"fields": ("fail_mode",)}),
        ("State", {"fields": (("enforced", "active"), "note")}),
    )
    actions = ("activate", "deactivate")
    actions_list = ("explain_decision",)
    actions_row = ("reset_caller",)
    actions_detail = ("reset_caller",)

    # --- the list ------------------------------------------------------------------------------

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        facts = facts_of(changelist.result_list)
        for row in changelist.result_list:
            row.page_facts = facts[row.pk]
        return changelist

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, form=ProfileRowForm, **kwargs)

    @display(description="Role", ordering="role")
    def role_shown(self, row: RateLimitProfile) -> SafeString:
        narrowed = " · ".join(
            part
            for part in (
                row.route_prefix and f"on {row.route_prefix}",
                row.subject and f"only {row.subject}",
            )
            if part
        )
        if not narrowed:
            return format_html("{}", row.role)
        return format_html('{}<br><small class="zt-muted-text">{}</small>', row.role, narrowed)

    @display(description="Limit", ordering="requests")
    def limit_shown(self, row: RateLimitProfile) -> SafeString:
        return format_html('<span class="whitespace-nowrap">{}</span>', limit_words(row.as_policy()))

    @display(description="Allowed")
    def allowed_shown(self, row: RateLimitProfile) -> SafeString:
        return _counted(row, "allowed")

    @display(description="Denied")
    def denied_shown(self, row: RateLimitProfile) -> SafeString:
        if row.enforced:
            return _counted(row, "denied")
        return format_html("{} <small>would have been</small>", _counted(row, "denied"))

    @display(description="Callers")
    def callers_shown(self, row: RateLimitProfile) -> SafeString:
        return _counted(row, "callers")

    @display(description="Version", ordering="version")
    def force_shown(self, row: RateLimitProfile) -> SafeString:
        in_force = _facts(row).in_force
        if in_force is None:
            mark = format_html('<span title="{}">{}</span>', REDIS_AWAY, badge("unknown", "muted", "help"))
        elif in_force:
            mark = badge("in force", "ok")
        else:
            mark = badge("saved, not yet in force", "warn")
        return format_html('<span class="whitespace-nowrap">{} {}</span>', row.version, mark)

    @display(description="Last change")
    def changed_shown(self, row: RateLimitProfile) -> SafeString:
        facts = _facts(row)
        return format_html("{}<br><small>{}</small>", since(facts.changed_at), facts.changed_by or "by the system")

    @announces
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return super().changelist_view(request, extra_context)

    @action(permission="change", description="Activate")
    def activate(self, request: HttpRequest, queryset: models.QuerySet[RateLimitProfile]) -> None:
        self._set_active(request, queryset, active=True)

    @action(permission="change", description="Deactivate")
    def deactivate(self, request: HttpRequest, queryset: models.QuerySet[RateLimitProfile]) -> None:
        self._set_active(request, queryset, active=False)

    def _set_active(self, request: HttpRequest, queryset: models.QuerySet[RateLimitProfile], *, active: bool) -> None:
        """Row by row: each change has its history entry and its version."""
        changed = 0
        for row in queryset.filter(active=not active):
            row.active = active
            try:
                row.full_clean()
            except ValidationError as clash:
                messages.error(request, f"“{row}” was left alone. {' '.join(clash.messages)}")
                continue
            row.save(expected_version=row.version)
            self.log_change(request, row, "activated" if active else "deactivated")
            changed += 1
        messages.info(request, f"{changed} {'activated' if active else 'deactivated'}.")

    # --- the form ------------------------------------------------------------------------------

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Field | None:
        if db_field.name in ("window_seconds", "burst_window_seconds"):
            widget = self.formfield_overrides[models.CharField]["widget"]
            return db_field.formfield(form_class=DurationField, widget=widget)  # type: ignore[no-any-return]
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    @display(description="What it does")
    def consequence_shown(self, row: RateLimitProfile | None) -> SafeString:
        row = row or RateLimitProfile()
        return format_html(
            '<div id="zt-consequence" aria-live="polite" hx-post="{}" hx-trigger="input from:closest form delay:300ms">'
            "{}</div>",
            reverse("admin:ratelimits_ratelimitprofile_preview"),
            consequence(row.as_policy(), active=row.active),
        )

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """What the form, as it stands, would do: a sentence for the page. Saves nothing."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        form = self.get_form(request)(request.POST)
        wrong = [form.fields[name].label for name in form.errors if name in form.fields]
        if wrong:
            return HttpResponse(format_html("Not yet clear: look at {}.", ", ".join(map(str, wrong))))
        return HttpResponse(format_html("{}", consequence(form.instance.as_policy(), active=form.instance.active)))

    def save_model(self, request: HttpRequest, obj: RateLimitProfile, form: Any, change: bool) -> None:
        """Save if the row is still as its maker saw it; StaleProfile otherwise."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        obj._history_user = request.user  # type: ignore[attr-defined]  # read by simple-history
        obj.save(expected_version=form.seen_version())

    @announces
    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        return super().changeform_view(request, object_id, form_url, extra_context)

    @announces
    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        return super().delete_view(request, object_id, extra_context)

    @announces
    def revert_view(self, request: HttpRequest, object_id: str, version_id: int) -> HttpResponse:
        return super().revert_view(request, object_id, version_id)

    # --- one caller ----------------------------------------------------------------------------
    # As methods, because the theme looks a dotted permission up in the database while checks run, which is
    # before the first migration.

    def has_reset_caller_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return request.user.has_perm("ratelimits.reset_caller")

    def has_explain_decision_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return request.user.has_perm("ratelimits.explain_decision")

    def get_urls(self) -> list[URLPattern]:
        def own(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            return path(route, self.admin_site.admin_view(view), name=f"ratelimits_ratelimitprofile_{name}")

        return [
            own("preview/", self.preview_view, "preview"),
            own("reset-key/", self.reset_key_view, "reset_key"),
            *super().get_urls(),
        ]

    @action(
        permission="reset_caller",
        description="Reset a caller",
        icon="restart_alt",
        dialog=Dialog(
            title="Reset a caller",
            description="His count in this profile goes back to nothing; others' stay.",
            form=ResetCallerForm,
            submit="Reset",
        ),
    )
    def reset_caller(self, request: HttpRequest, form: ResetCallerForm, object_id: str) -> None:
        profile = self.get_object(request, object_id)
        if profile is None:
            raise Refused("This profile is gone.", remedy="Load the list again.")
        subject, address = form.cleaned_data["subject"], form.cleaned_data["address"]
        had_count = reset_caller(profile.as_policy(), subject=subject, address=address)
        who = " at ".join(part for part in (subject or "a caller without a user", address) if part)
        self._note_reset(request, profile, f"Reset {who}.")
        if had_count:
            messages.success(request, f"{who} begins anew in “{profile}”.")
        else:
            messages.info(request, f"{who} had no count in “{profile}”: nothing to reset.")

    def _note_reset(self, request: HttpRequest, profile: RateLimitProfile, text: str) -> None:
        self.log_change(request, profile, text)
        log.info("caller_reset", profile=profile.pk, by=request.user.get_username())

    @action(
        permission="explain_decision",
        description="Explain a decision id",
        icon="troubleshoot",
        navigates=True,
        url_path="explain",
    )
    def explain_decision(self, request: HttpRequest) -> HttpResponse:
        form = ExplainForm(request.GET if "decision_id" in request.GET else None)
        found, matches = None, None
        if form.is_valid():
            asked = form.cleaned_data
            try:
                found = explain_decision(asked["decision_id"])
                if asked["subject"] or asked["address"]:
                    matches = found.is_caller(subject=asked["subject"], address=asked["address"])
            except (NotAuthentic, Refused) as unreadable:
                form.add_error("decision_id", str(unreadable))
        context = {
            **self.admin_site.each_context(request),
            "title": "Why was this caller denied?",
            "opts": self.opts,
            "form": form,
            "found": found,
            "matches": matches,
            "asked_for_caller": form.is_bound and bool(form.data.get("subject") or form.data.get("address")),
            "may_reset": self.has_reset_caller_permission(request),
        }
        return TemplateResponse(request, "ratelimits/explain.html", context)

    def reset_key_view(self, request: HttpRequest) -> HttpResponse:
        """Reset the caller whom a decision id names by its hash alone. POST only."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_reset_caller_permission(request):
            raise PermissionDenied
        try:
            found = explain_decision(request.POST.get("decision_id", ""))
            if found.profile is None:
                raise Refused("The profile of this decision is gone, and its counts with it.")
            had_count = reset_key(found.profile.pk, found.decision.key_hash)
            self._note_reset(request, found.profile, f"Reset the caller with key {found.decision.key_hash}.")
            messages.success(request, "The caller begins anew." if had_count else "The caller had no count any more.")
        except ZantaraError as refused:
            messages.error(request, str(refused))
        return HttpResponseRedirect(reverse("admin:ratelimits_ratelimitprofile_changelist"))


def _facts(row: RateLimitProfile) -> ProfileFacts:
    facts: ProfileFacts = row.page_facts  # type: ignore[attr-defined]  # put there for the page
    return facts


def _counted(row: RateLimitProfile, what: str) -> SafeString:
    usage = _facts(row).usage
    if row.unlimited or not row.active:
        why = "Unlimited callers are not counted." if row.unlimited else "Not active, so nothing is counted."
        return format_html('<span title="{}">–</span>', why)
    if usage is None:
        return format_html('<span title="{}">–</span>', REDIS_AWAY)
    return format_html("{}", getattr(usage, what))
