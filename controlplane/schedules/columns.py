"""How a schedule looks in a list and on its page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django_celery_beat.models import PeriodicTask

from controlplane.console.base import Tone, badge, human_seconds, relative_text, since
from controlplane.kernel.nextruns import Run

from . import rows
from .store import LastRun
from .timing import timing

_OUTCOMES: dict[str, tuple[str, Tone]] = {
    "success": ("done", "ok"),
    "failure": ("failed", "bad"),
    "running": ("running", "info"),
}
_ORIGIN_TONES: dict[rows.Origin, Tone] = {"code": "muted", "edited": "warn", "retired": "warn", "user": "info"}
_ORIGIN_ICONS: dict[rows.Origin, str] = {
    "code": "code", "edited": "edit", "retired": "code_off", "user": "person",
}  # fmt: skip


def schedule_column(task: PeriodicTask) -> SafeString:
    found = rows.in_words(task)
    if found.broken:
        return badge(found.words, "bad")
    if not found.zone:
        return format_html("{}", found.words)
    return format_html('{}<br><span class="zt-muted-text">{}</span>', found.words, found.zone)


def next_column(task: PeriodicTask, now: datetime, run: LastRun | None) -> SafeString:
    found = timing(task, now, run)
    if not task.enabled:
        return badge("disabled", "muted", "pause_circle")
    if found.overdue:
        return badge("overdue", "bad", "alarm")
    if found.next_at is None:
        return badge("never", "warn")
    if found.due_now:
        return badge("due now", "info", "schedule")
    return format_html(
        '<time datetime="{}" title="{}">{}</time><br><span class="zt-muted-text">{}</span>',
        found.next_at.isoformat(),
        found.next_at.strftime("%Y-%m-%d %H:%M:%S %Z"),
        relative_text(found.next_at, now),
        found.next_at.strftime("%a %d %b %H:%M %Z"),
    )


def last_column(task: PeriodicTask, now: datetime, run: LastRun | None) -> SafeString:
    if run is None:
        if task.last_run_at is None:
            return format_html("{}", since(None))
        return format_html("{}<br>{}", since(task.last_run_at, now=now), badge("sent, outcome not known", "muted"))
    text, tone = _OUTCOMES.get(run.state, (run.state, "muted"))
    if run.error:
        text = f"{text}: {run.error}"
    if run.duration_seconds is not None:
        text = f"{text}, {human_seconds(run.duration_seconds)}"
    by = format_html('<br><span class="zt-muted-text">by {}</span>', run.triggered_by) if run.triggered_by else ""
    return format_html('<span title="task {}">{}<br>{}{}</span>', run.task_id, since(run.started_at, now=now),
                       badge(text, tone), by)  # fmt: skip


def origin_column(task: PeriodicTask) -> SafeString:
    origin = rows.origin_of(task)
    return badge(rows.ORIGIN_WORDS[origin], _ORIGIN_TONES[origin], _ORIGIN_ICONS[origin])


def runs_list(runs: Sequence[Run], now: datetime) -> SafeString:
    """The next runs as a list, each with its zone's offset and what the clocks do to it."""
    if not runs:
        return badge("It will not run.", "warn")
    return format_html(
        '<ol class="zt-next-runs">{}</ol>',
        format_html_join(
            "",
            '<li><time datetime="{}">{}</time> <span class="zt-muted-text">({})</span>{}</li>',
            (
                (
                    run.at.isoformat(),
                    run.at.strftime("%a %d %b %Y %H:%M:%S %Z" if run.at.second else "%a %d %b %Y %H:%M %Z"),
                    relative_text(run.at, now),
                    format_html(" {}", badge(run.note, "warn")) if run.note else "",
                )
                for run in runs
            ),
        ),
    )
