"""When a plan runs and drills: read from its rows of beat, and worked out from what is typed into the form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django import forms
from django.core.exceptions import ValidationError
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from controlplane.console.base import badge, relative_text
from controlplane.kernel.cron import Cron, CronError, cron_in_words, expand, interval_in_words, parse
from controlplane.kernel.nextruns import Run, next_interval_runs, next_runs


@dataclass(frozen=True)
class When:
    """A schedule as it is stored. ``cron`` None: none, or one by an interval; ``words`` say it in either case."""

    words: str
    enabled: bool = False
    cron: Cron | None = None
    zone: tzinfo = UTC
    next: tuple[Run, ...] = ()


NO_SCHEDULE = When("no schedule")


def cron_of(task: Any) -> Cron | None:
    """The cron of a row of beat; None where it has none that could be followed."""
    if task is None or task.crontab is None:
        return None
    row = task.crontab
    try:
        return expand(row.minute, row.hour, row.day_of_month, row.month_of_year, row.day_of_week)
    except CronError:
        return None


def cron_text(task: Any) -> str:
    """The five fields of a row of beat; "" without a cron."""
    if task is None or task.crontab is None:
        return ""
    row = task.crontab
    return f"{row.minute} {row.hour} {row.day_of_month} {row.month_of_year} {row.day_of_week}"


def zone_of(task: Any) -> tzinfo:
    """The zone in which a row of beat counts; UTC where it says none."""
    found: tzinfo = task.crontab.timezone if task is not None and task.crontab is not None else UTC
    return found


def read_when(task: Any, now: datetime, count: int = 1) -> When:
    """What a row of beat (with its ``crontab`` and ``interval`` loaded) means, and its next ``count`` runs."""
    if task is None:
        return NO_SCHEDULE
    cron, zone = cron_of(task), zone_of(task)
    if cron is not None:
        runs = tuple(next_runs(cron, zone, now, count)) if task.enabled else ()
        return When(f"{cron_in_words(cron)} ({zone})", task.enabled, cron, zone, runs)
    if task.interval is not None:
        every = timedelta(**{task.interval.period: task.interval.every})
        runs = tuple(next_interval_runs(every, task.last_run_at, now, count)) if task.enabled else ()
        return When(interval_in_words(task.interval.every, task.interval.period), task.enabled, next=runs)
    return NO_SCHEDULE


def next_words(when: When, now: datetime) -> SafeString:
    """The next run for a line of text, or why there is none."""
    if not when.next:
        return badge("no schedule" if when is NO_SCHEDULE else "paused", "warn", "pause_circle")
    at = when.next[0].at
    return format_html(
        '<time class="zt-since" datetime="{}" title="{}">{}</time>',
        at.isoformat(), at.strftime("%a %d %b %Y %H:%M %Z"), relative_text(at, now),
    )  # fmt: skip


def runs_list(runs: Sequence[Run], now: datetime) -> SafeString:
    """The next runs as a list, each with its zone's offset and what the clocks do to it."""
    if not runs:
        return badge("It will not run.", "warn")
    lines = (
        (
            run.at.isoformat(), run.at.strftime("%a %d %b %Y %H:%M %Z"), relative_text(run.at, now),
            format_html(" {}", badge(run.note, "warn")) if run.note else "",
        )
        for run in runs
    )  # fmt: skip
    inner = format_html_join(
        "", '<li><time datetime="{}">{}</time> <span class="zt-muted-text">({})</span>{}</li>', lines
    )
    return format_html('<ol class="zt-next-runs">{}</ol>', inner)


def clean_cron(text: str) -> str:
    """The cron in its usual writing; "" stays "". ValidationError for one that beat could not follow."""
    text = " ".join(text.split())
    try:
        return str(parse(text)) if text else ""
    except CronError as problem:
        raise ValidationError(str(problem)) from None


def clean_zone(text: str) -> str:
    """The name of a time zone; empty is UTC."""
    zone = text.strip() or "UTC"
    if zone not in available_timezones():
        raise ValidationError(f"There is no time zone “{zone}”. Write one as in Europe/Rome, or UTC.")
    return zone


class WhenPreviewForm(forms.Form):
    """What the page asks about while somebody types."""

    cron = forms.CharField(required=False, max_length=600)
    zone = forms.CharField(required=False, max_length=63)

    def clean_cron(self) -> str:
        return clean_cron(self.cleaned_data["cron"])

    def clean_zone(self) -> str:
        return clean_zone(self.cleaned_data["zone"])


def preview(cron: str, zone: str, now: datetime) -> SafeString:
    """The words and the next five runs of what is typed, or the sentence that says what is wrong with it."""
    form = WhenPreviewForm({"cron": cron, "zone": zone})
    if not form.is_valid():
        return badge(next(iter(form.errors.values()))[0], "warn")
    if not form.cleaned_data["cron"]:
        return badge("Empty: it never runs by itself.", "muted")
    parsed, named = parse(form.cleaned_data["cron"]), form.cleaned_data["zone"]
    runs = next_runs(parsed, ZoneInfo(named), now)
    return format_html("<p>{} ({})</p>{}", cron_in_words(parsed), named, runs_list(runs, now))
