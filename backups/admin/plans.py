"""Backup plans in the admin: what is saved, when, for how long; and what the rules would keep before they are saved."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups import beat
from backups.engine.expiry import unfreeze
from backups.models import Artifact, BackupPlan, BackupRecord, BackupSource, StorageTarget
from controlplane.console.base import Dialog, HistoryModelAdmin, action, badge, display, human_bytes, since
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from .access import BackupVerbs
from .base import OurMedia
from .dialogs import ReasonForm, RunPlanForm
from .plan_forms import PlanForm
from .record_actions import run_plan, who
from .retention_preview import retention_table
from .when import next_words, preview, read_when, runs_list
from .words import docs_link, small


class TargetFilter(admin.SimpleListFilter):
    """By name alone: a target's row holds a secret, which a filter has no need of."""

    title, parameter_name = "target", "target"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(pk), name) for pk, name in StorageTarget.objects.values_list("pk", "name")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BackupPlan]) -> QuerySet[BackupPlan]:
        value = self.value() or ""
        return queryset.filter(target_id=int(value)) if value.isdecimal() else queryset


@admin.register(BackupPlan)
class BackupPlanAdmin(BackupVerbs, HistoryModelAdmin[BackupPlan]):
    """One row per plan."""

    class Media(OurMedia):
        pass

    form = PlanForm
    list_display = ("name_shown", "when_shown", "next_shown", "last_shown", "proof_shown", "keeps_shown", "state_shown")
    list_display_links = ("name_shown",)
    list_filter = ("enabled", TargetFilter)
    search_fields = ("name", "description")
    ordering = ("name",)
    change_form_after_template = "admin/django_celery_beat/time_zones.html"
    empty_state = (
        "A plan says which sources become one restore point, when, where, and for how long. "
        "`manage.py bootstrap` makes the first one, “zantara”."
    )
    readonly_fields = ("runs_shown", "drill_runs_shown", "retention_shown", "frozen_shown")
    actions_row = ("run",)
    actions_detail = ("run", "unfreeze_plan")
    history_hidden_fields = ("schedule", "drill_schedule")

    @property
    def time_zones(self) -> list[str]:
        """What the form suggests for the zones."""
        return sorted(available_timezones())

    # --- the list

    def get_queryset(self, request: HttpRequest) -> QuerySet[BackupPlan]:
        related = ("target", "state", "schedule__crontab", "schedule__interval", "drill_schedule__crontab")
        kept = BackupRecord.objects.filter(plan=OuterRef("pk"), state__in=("committed", "expiring")).order_by()
        gone: Any = BackupRecord.objects.filter(plan=OuterRef("pk"), state="deleted").order_by().values("plan")
        drilled = Artifact.objects.filter(record__plan=OuterRef("pk"), l3_at__isnull=False).order_by("-l3_at")
        counted: QuerySet[Any] = (
            super().get_queryset(request).select_related(*related).defer("target__secret_access_key")
        )
        annotated: QuerySet[Any] = counted.annotate(
            source_count=Count("sources", filter=Q(sources__enabled=True)),
            last_at=Subquery(kept.order_by("-committed_at").values("committed_at")[:1]),
            kept=Coalesce(Subquery(kept.values("plan").annotate(count=Count("pk")).values("count")), 0),
            deleted=Coalesce(Subquery(gone.annotate(count=Count("pk")).values("count")), 0),
            freed=Coalesce(Subquery(gone.annotate(sum=Sum("freed_bytes")).values("sum")), 0),
            proven_at=Subquery(drilled.values("l3_at")[:1]),
        )
        return annotated

    @display(description="Plan", ordering="name")
    def name_shown(self, plan: Any) -> SafeString:
        count = plan.source_count
        return format_html("{}{}", plan.name, small(f"{count} source{'' if count == 1 else 's'} → {plan.target.name}"))

    @display(description="Runs")
    def when_shown(self, plan: BackupPlan) -> str:
        return read_when(plan.schedule, clock.now()).words

    @display(description="Next run")
    def next_shown(self, plan: BackupPlan) -> SafeString:
        now = clock.now()
        return next_words(read_when(plan.schedule, now), now) if plan.enabled else badge("off", "muted", "pause_circle")

    @display(description="Last saved", ordering="last_at")
    def last_shown(self, plan: Any) -> SafeString:
        return since(plan.last_at)

    @display(description="Last restored in a drill", ordering="proven_at")
    def proof_shown(self, plan: Any) -> SafeString:
        return since(plan.proven_at)

    @display(description="Keeps")
    def keeps_shown(self, plan: Any) -> SafeString:
        freed = f"{plan.deleted} deleted so far, {human_bytes(plan.freed)} freed" if plan.deleted else ""
        kept = f"{plan.kept} set{'' if plan.kept == 1 else 's'}"
        return format_html("{}{}{}", kept, small(rules_words(plan)), small(freed))

    @display(description="State", ordering="enabled")
    def state_shown(self, plan: BackupPlan) -> SafeString:
        if frozen_reason(plan):
            return badge("Deletes nothing", "warn", "ac_unit")
        return badge("On", "ok") if plan.enabled else badge("Off", "muted", "pause_circle")

    # --- the form

    def get_fieldsets(self, request: HttpRequest, obj: BackupPlan | None = None) -> Any:
        head: list[Any] = ["name", "description", "enabled"]
        if obj is not None and frozen_reason(obj):
            head.insert(0, "frozen_shown")
        typed = self.has_change_permission(request, obj) if obj else True
        runs = [("cron", "zone"), "scheduled", "runs_shown"] if typed else ["runs_shown"]
        drills = [
            ("drill_cron", "drill_zone"),
            "drill_scheduled",
            "drill_runs_shown",
            "drill_after_backup",
            "verify_full_days",
        ]
        if not typed:
            drills = drills[2:]
        return [
            (None, {"fields": head}),
            ("What and where", {"fields": ["sources", "target"]}),
            ("When it is saved", {"fields": [*runs, "rpo_hours"]}),
            ("When it is proven", {"fields": drills}),
            (
                "How long it is kept",
                {
                    "fields": [
                        ("keep_within_days", "keep_last"),
                        ("keep_hourly", "keep_daily"),
                        ("keep_weekly", "keep_monthly"),
                        "keep_yearly",
                        "retention_shown",
                    ],
                    "description": "A set is kept as long as any rule wants it. Never deleted: the last one that was "
                    "verified, pinned ones, and those in use.",
                },
            ),
            ("How it is stored", {"fields": [("compress", "compression_level"), "extra_recipients", "stall_seconds"]}),
        ]  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: BackupPlan | None = None) -> Any:
        """Sets are kept and judged by the plan's name: it stays once there is one."""
        fields = tuple(super().get_readonly_fields(request, obj))
        named = obj is not None and BackupRecord.objects.filter(plan_name=obj.name).exists()
        return (*fields, "name") if named else fields

    def get_form(self, request: HttpRequest, obj: BackupPlan | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        if "cron" in form.base_fields:
            _ask_while_typing(form, "", "#zt-runs")
            _ask_while_typing(form, "drill_", "#zt-drill-runs")
        return form

    @display(description="Next five runs")
    def runs_shown(self, plan: BackupPlan) -> SafeString:
        return _next_five(plan.schedule if plan.pk else None, "zt-runs", beat.DEFAULT_CRON)

    @display(description="Next five drills")
    def drill_runs_shown(self, plan: BackupPlan) -> SafeString:
        return _next_five(plan.drill_schedule if plan.pk else None, "zt-drill-runs", beat.DEFAULT_DRILL_CRON)

    @display(description="What these rules do")
    def retention_shown(self, plan: BackupPlan) -> SafeString:
        if plan.pk is None:
            return format_html(
                '<span class="zt-muted-text">{}</span>', "There is nothing to judge before the first set."
            )
        return format_html(
            '<div class="zt-copy"><button type="button" class="zt-button" hx-post="{}" hx-target="#zt-judgements" '
            'hx-swap="innerHTML">Show what would be kept and deleted</button>'
            '<span class="zt-muted-text">{}</span></div><div id="zt-judgements" aria-live="polite"></div>',
            reverse("admin:backups_backupplan_retention", args=(plan.pk,)),
            "Judges every set by the rules as they are typed above; nothing is saved.",
        )

    @display(description="Deletes nothing")
    def frozen_shown(self, plan: BackupPlan) -> SafeString:
        reason, link = frozen_reason(plan), docs_link("frozen-retention")
        more = format_html(' <a class="zt-link" href="{}">Read more</a>', link) if link else ""
        return format_html('{} <span class="zt-warning">{}{}</span>', badge("Frozen", "warn", "ac_unit"), reason, more)

    def save_model(self, request: HttpRequest, obj: BackupPlan, form: Any, change: bool) -> None:
        """The row first, then its rows of beat."""
        super().save_model(request, obj, form, change)
        runs, drills = form.times()
        if runs is not None:
            beat.write_schedule(obj, runs)
        if drills is not None:
            beat.write_drill_schedule(obj, drills)

    def _save_as_it_was(self, request: HttpRequest, record: Any, current: Any) -> None:
        """A revert brings back the sources that are still there. A deleted plan comes back without times of its own."""
        wanted = [one.backupsource_id for one in record.sources.all()]
        if current is None:
            record.schedule_id = record.drill_schedule_id = None  # beat's rows went with the plan
        with transaction.atomic():
            super()._save_as_it_was(request, record, current)
            plan = BackupPlan.objects.get(pk=record.id)
            plan.sources.set(BackupSource.objects.filter(pk__in=wanted))

    def delete_model(self, request: HttpRequest, obj: BackupPlan) -> None:
        beat.delete_schedules(obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[BackupPlan]) -> None:
        for plan in BackupPlan.objects.filter(pk__in=queryset.values("pk")):
            self.delete_model(request, plan)

    # --- what the form asks about while it is filled in

    def get_urls(self) -> list[URLPattern]:
        def own(route: str, view: Any, name: str) -> URLPattern:
            found: URLPattern = path(route, self.admin_site.admin_view(view), name=f"backups_backupplan_{name}")
            return found

        return [
            own("when/", self.when_view, "when"),
            own("<int:object_id>/retention/", self.retention_view, "retention"),
            *super().get_urls(),
        ]

    def when_view(self, request: HttpRequest) -> HttpResponse:
        """The next runs of what is typed."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        asked = request.GET
        prefix = "drill_" if "drill_cron" in asked else ""
        return HttpResponse(preview(asked.get(f"{prefix}cron", ""), asked.get(f"{prefix}zone", ""), clock.now()))

    def retention_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """What the rules, as typed, would keep and delete. POST, and it saves nothing."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        plan = self.get_object(request, str(object_id))
        if plan is None or not self.has_view_permission(request, plan):
            raise PermissionDenied
        return retention_table(request, plan, clock.now())

    # --- actions

    @action(
        permission="run_backup",
        description="Run now",
        icon="play_arrow",
        url_path="run",
        dialog=Dialog("Run this plan now", "The schedule goes on as before.", RunPlanForm, "Run now"),
    )
    def run(self, request: HttpRequest, form: RunPlanForm, object_id: str) -> HttpResponse:
        return run_plan(request, self._the_plan(request, object_id), form.cleaned_data["reason"])

    @action(
        permission="unfreeze",
        description="Let it delete again",
        icon="mode_cool_off",
        url_path="unfreeze",
        dialog=Dialog(
            "Let this plan delete again",
            "A set was unusually small, so nothing is deleted for now. Go on only once you know why.",
            ReasonForm,
            "Let it delete",
        ),
    )
    def unfreeze_plan(self, request: HttpRequest, form: ReasonForm, object_id: str) -> None:
        plan = self._the_plan(request, object_id)
        unfreeze(plan, who(request), form.cleaned_data["reason"])
        self.log_change(request, plan, f"Let it delete again: {form.cleaned_data['reason']}")
        messages.success(request, f"{plan.name} deletes expired sets again.")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        allowed: list[Any] = super().get_actions_detail(request, object_id)
        frozen = BackupPlan.objects.filter(pk=object_id, state__retention_frozen_at__isnull=False).exists()
        return [one for one in allowed if frozen or not one.action_name.endswith("_unfreeze_plan")]

    def _the_plan(self, request: HttpRequest, object_id: str) -> BackupPlan:
        plan = self.get_object(request, object_id)
        if plan is None:
            raise Refused("This plan is gone.", remedy="Load the list again.")
        return plan


def frozen_reason(plan: BackupPlan) -> str:
    """Why the plan deletes nothing; "" where it does."""
    state = getattr(plan, "state", None)
    return state.retention_frozen_reason or "no reason noted" if state and state.retention_frozen_at else ""


def rules_words(plan: BackupPlan) -> str:
    """``30 days, 12 monthly``."""
    parts = [f"{plan.keep_within_days} days"] if plan.keep_within_days else []
    if plan.keep_last:
        parts.append(f"last {plan.keep_last}")
    for name in ("hourly", "daily", "weekly", "monthly", "yearly"):
        if count := getattr(plan, f"keep_{name}"):
            parts.append(f"{count} {name}")
    return ", ".join(parts)


def _next_five(task: Any, element: str, default: str) -> SafeString:
    now = clock.now()
    if task is None:
        inner = preview(default, "UTC", now)
    else:
        when = read_when(task, now, 5)
        runs = runs_list(when.next, now) if task.enabled else badge("Switched off.", "muted", "pause_circle")
        inner = format_html("<p>{}</p>{}", when.words, runs)
    return format_html('<div id="{}" aria-live="polite">{}</div>', element, inner)


def _ask_while_typing(form: Any, prefix: str, target: str) -> None:
    """The two fields ask for the next runs as they are typed (htmx comes with the theme)."""
    for name in (f"{prefix}cron", f"{prefix}zone"):
        form.base_fields[name].widget.attrs.update(
            {
                "hx-get": reverse("admin:backups_backupplan_when"),
                "hx-trigger": "input changed delay:300ms, change",
                "hx-include": f"[name={prefix}cron],[name={prefix}zone]",
                "hx-target": target,
            }
        )
