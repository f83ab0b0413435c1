"""The shared crontab and interval rows: to look at, and to delete where no schedule uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from django.contrib import messages
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from controlplane.console.base import OpsModelAdmin, display
from controlplane.kernel.cron import CronError, cron_in_words, interval_in_words

from .rows import cron_of

M = TypeVar("M", bound=Model)


class SharedScheduleAdmin(OpsModelAdmin[M]):
    """Never edited: a change would reach every schedule that shares the row. Beat's own delete would take
    the schedules along (its foreign keys cascade), so a row in use is protected here.
    """

    list_display = ("words", "used_by")
    list_display_links = None
    empty_state = "Nothing here: crons and intervals are made when a schedule is saved."

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[M]:
        counted: QuerySet[Any] = super().get_queryset(request).annotate(users=Count("periodictask"))
        return counted

    @display(description="Used by", ordering="users")
    def used_by(self, row: Any) -> str:
        if not row.users:
            return "no schedule"
        return "1 schedule" if row.users == 1 else f"{row.users} schedules"

    def get_deleted_objects(
        self, objs: QuerySet[M] | Sequence[M], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Rows in use are reported as protected: Django then shows the page and deletes nothing."""
        column = "crontab" if self.model is CrontabSchedule else "interval"
        keys = [row.pk for row in objs]
        users = PeriodicTask.objects.filter(**{f"{column}__in": keys}).order_by("name").values_list("name", flat=True)
        if users:
            names = ", ".join(f"“{name}”" for name in users)
            messages.error(request, f"Nothing was deleted. In use by {names}: give them another schedule first.")
            return [], {}, set(), [f"Schedule “{name}” uses it" for name in users]
        return [str(row) for row in objs], {str(self.opts.verbose_name_plural): len(keys)}, set(), []

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> None:
        for row in queryset:
            row.delete()  # one by one: beat learns of it by each row's signal


class CrontabAdmin(SharedScheduleAdmin[CrontabSchedule]):
    fields = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week", "timezone")

    @display(description="Cron")
    def words(self, row: CrontabSchedule) -> str:
        try:
            return f"{cron_in_words(cron_of(row))} ({row.timezone})"
        except CronError as problem:
            return problem.message


class IntervalAdmin(SharedScheduleAdmin[IntervalSchedule]):
    fields = ("every", "period")

    @display(description="Interval")
    def words(self, row: IntervalSchedule) -> str:
        return interval_in_words(row.every, row.period)
