"""The live preview: the next five runs of a schedule that is not saved yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import badge
from controlplane.kernel.cron import cron_in_words, interval_in_words, parse
from controlplane.kernel.nextruns import next_interval_runs, next_runs

from .columns import runs_list
from .forms import WhenForm


def preview(typed: Mapping[str, Any], now: datetime) -> SafeString:
    """The words and the runs as HTML, or the sentence that says what is wrong with the input."""
    form = WhenForm(typed)
    if not form.is_valid():
        first = next(iter(form.errors.values()))[0]
        return badge(first, "warn")
    data = form.cleaned_data
    if data["cron"]:
        cron = parse(data["cron"])
        words, runs = f"{cron_in_words(cron)} ({data['zone']})", next_runs(cron, ZoneInfo(data["zone"]), now)
    else:
        words = interval_in_words(data["every"], data["period"])
        every = timedelta(**{data["period"]: data["every"]})
        runs = next_interval_runs(every, None, now.astimezone(UTC))
    return format_html("<p>{}</p>{}", words, runs_list(runs, now))
