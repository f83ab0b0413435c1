"""Beat's schedules in the console: what runs, when, how it went last, and “run now”."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import available_timezones

import django_celery_beat.admin  # noqa: F401  (it registers first; what it registered is replaced below)
from django.contrib import admin, messages
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)

from controlplane.console.base import Dialog, OpsModelAdmin, action, display
from controlplane.kernel import clock
from controlplane.kernel.registry import schedules

from . import columns, rows, store
from .forms import PeriodicTaskForm
from .preview import preview
from .running import RUN_CODENAME, RUN_PERMISSION, run_now
from .shared_admin import CrontabAdmin, IntervalAdmin
from .timing import upcoming

_RUN = Dialog(
    title="Run it now",
    description="Its job is sent once, with its own arguments and queue. The schedule goes on as before.",
    submit="Run now",
)


def is_fixed(task: PeriodicTask | None) -> bool:
    """Whether the code declares this row and allows no edit of it."""
    return task is not None and task.name in schedules and not schedules.get(task.name).editable


class PeriodicTaskAdmin(OpsModelAdmin[PeriodicTask]):
    """One row per schedule."""

    form = PeriodicTaskForm
    list_display = ("name", "job", "schedule", "next_run", "last_run", "origin", "enabled")
    list_editable = ("enabled",)
    list_filter = ("enabled", "queue")
    list_select_related = ("interval", "crontab", "solar", "clocked")
    search_fields = ("name", "task", "description")
    ordering = ("name",)
    actions = ("enable", "disable")
    actions_row = ("run_row",)
    actions_detail = ("run_row",)
    change_form_after_template = "admin/django_celery_beat/time_zones.html"
    empty_state = "No schedules. Run `manage.py bootstrap` to bring in those of the code, or add one."

    @property
    def time_zones(self) -> list[str]:
        """What the form suggests for the zone."""
        return sorted(available_timezones())

    # --- the list

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The last runs of the shown rows come from Redis in one round trip."""
        changelist = super().get_changelist_instance(request)
        shown = list(changelist.result_list)
        runs = store.last_runs([task.name for task in shown])
        now = clock.now()
        for task in shown:
            task.zantara_last_run, task.zantara_now = runs.get(task.name), now
        return changelist

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> type[ModelForm[PeriodicTask]]:
        base = super().get_changelist_form(request, **kwargs)

        class RowForm(base):  # type: ignore[misc,valid-type]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.fields["enabled"].disabled = is_fixed(self.instance)

        return RowForm

    @display(description="Job")
    def job(self, task: PeriodicTask) -> SafeString:
        label = rows.label_of(task)
        if label == task.task:
            return format_html("{}", label)
        return format_html('{}<br><span class="zt-muted-text">{}</span>', label, task.task)

    @display(description="Schedule")
    def schedule(self, task: PeriodicTask) -> SafeString:
        return columns.schedule_column(task)

    @display(description="Next run")
    def next_run(self, task: PeriodicTask) -> SafeString:
        return columns.next_column(task, *self._moment_and_run(task))

    @display(description="Last run", ordering="last_run_at")
    def last_run(self, task: PeriodicTask) -> SafeString:
        return columns.last_column(task, *self._moment_and_run(task))

    @display(description="Origin")
    def origin(self, task: PeriodicTask) -> SafeString:
        return columns.origin_column(task)

    def _moment_and_run(self, task: Any) -> tuple[Any, store.LastRun | None]:
        if not hasattr(task, "zantara_now"):
            task.zantara_last_run, task.zantara_now = store.last_runs([task.name]).get(task.name), clock.now()
        return task.zantara_now, task.zantara_last_run

    # --- the form

    def get_fieldsets(self, request: HttpRequest, obj: PeriodicTask | None = None) -> Any:
        head = ["name", "job", "enabled", "description"]
        frozen = is_fixed(obj) or not self.has_change_permission(request, obj)
        when = ["next_five"] if obj is not None and frozen else [("cron", "zone"), ("every", "period"), "next_five"]
        if obj is not None:
            head, when = [*head, "origin", "last_run"], ["schedule", *when]
        advanced = ["queue", "expire_seconds", "start_time", "one_off", "args", "kwargs"]
        return [
            (None, {"fields": head}),
            ("When", {"fields": when, "description": _when_help(obj)}),
            ("Advanced", {"fields": advanced, "classes": ["collapse"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: PeriodicTask | None = None) -> list[str]:
        shown = ["next_five", "schedule", "origin", "last_run"]
        if is_fixed(obj):
            return [*shown, "name", "job", "enabled", "description", *_WHEN, *_ADVANCED]
        if obj is not None and rows.is_from_code(obj):
            return [*shown, "name", "job", "description", "args", "kwargs"]
        return shown

    def get_form(
        self, request: HttpRequest, obj: PeriodicTask | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        if "cron" in form.base_fields:
            _preview_while_typing(form)
        return form

    @display(description="Next five runs")
    def next_five(self, task: PeriodicTask) -> SafeString:
        now = clock.now()
        stored = task.pk is not None
        inner = columns.runs_list(upcoming(task, now), now) if stored else "Fill in a cron or an interval."
        return format_html('<div id="zt-next-runs" aria-live="polite">{}</div>', inner)

    def get_urls(self) -> list[Any]:
        answer = self.admin_site.admin_view(self.preview_view)
        return [path("preview/", answer, name="django_celery_beat_periodictask_preview"), *super().get_urls()]

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """The next five runs of what is typed into the form."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return HttpResponse(preview(request.GET, clock.now()))

    # --- actions

    def has_run_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Its own permission; that to change serves until bootstrap has made it."""
        if request.user.has_perm(RUN_PERMISSION):
            return True
        return self.has_change_permission(request) and not Permission.objects.filter(codename=RUN_CODENAME).exists()

    @action(permission="run", description="Run now", icon="play_arrow", dialog=_RUN, url_path="run")
    def run_row(self, request: HttpRequest, form: Any, object_id: str) -> None:
        task = self.get_object(request, object_id)
        if task is None:
            messages.error(request, "This schedule is gone.")
            return
        task_id = run_now(task, actor=request.user.get_username())
        messages.success(
            request, f"“{task.name}” was sent as task {task_id}. Its outcome comes up under “Last run”, by your name."
        )
        self.log_change(request, task, f"Run now as task {task_id}.")

    @action(permission="change", description="Enable the selected schedules")
    def enable(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._switch(request, queryset, enabled=True)

    @action(permission="change", description="Disable the selected schedules")
    def disable(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[PeriodicTask], *, enabled: bool) -> None:
        """Row by row through ``save()``: beat does not see a bulk update."""
        word = "enabled" if enabled else "disabled"
        done = 0
        for task in queryset.select_related(*self.list_select_related):
            if is_fixed(task):
                messages.warning(request, f"“{task.name}” belongs to the system and stays as it is.")
            elif task.enabled != enabled:
                task.enabled = enabled
                task.save()
                self.log_change(request, task, f"{word.capitalize()}.")
                done += 1
        messages.success(request, f"{done} {'schedule was' if done == 1 else 'schedules were'} {word}.")

    # --- deletion

    def get_deleted_objects(
        self, objs: QuerySet[PeriodicTask] | Sequence[PeriodicTask], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """The code's rows would come back at the next bootstrap: they are protected, and can be disabled."""
        kept = [task.name for task in objs if rows.is_from_code(task) and task.name in schedules]
        if kept:
            names = ", ".join(f"“{name}”" for name in kept)
            messages.error(request, f"Nothing was deleted. {names}: the code brings it; disable it instead.")
            return [], {}, set(), [f"Schedule “{name}” comes from the code: disable it instead" for name in kept]
        return super().get_deleted_objects(objs, request)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        for task in queryset:
            task.delete()  # one by one: each tells beat


_WHEN = ("cron", "zone", "every", "period")
_ADVANCED = ("queue", "expire_seconds", "start_time", "one_off", "args", "kwargs")


def _when_help(task: PeriodicTask | None) -> str:
    if is_fixed(task):
        return "The system needs this schedule as it is, so it cannot be edited here."
    return "Either a cron in its time zone, or an interval."


def _preview_while_typing(form: Any) -> None:
    """The four fields ask for the next runs as they are typed (htmx comes with the theme)."""
    for name in _WHEN:
        form.base_fields[name].widget.attrs.update(
            {
                "hx-get": reverse("admin:django_celery_beat_periodictask_preview"),
                "hx-trigger": "input changed delay:300ms, change",
                "hx-include": "[name=cron],[name=zone],[name=every],[name=period]",
                "hx-target": "#zt-next-runs",
            }
        )


for _model in (PeriodicTask, CrontabSchedule, IntervalSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(_model)
# By the sun and at one moment: nothing here makes them, and a row that has one keeps working.
admin.site.register(PeriodicTask, PeriodicTaskAdmin)
admin.site.register(CrontabSchedule, CrontabAdmin)
admin.site.register(IntervalSchedule, IntervalAdmin)
