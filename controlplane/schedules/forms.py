"""The form of a schedule: a job, and either a cron in a time zone or “every N”. No shared rows to choose from."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

from celery import current_app
from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from controlplane.console.base import theme_widget
from controlplane.kernel import clock
from controlplane.kernel.cron import CronError, parse
from controlplane.kernel.registry import schedules

from . import rows

PERIODS = (("seconds", "seconds"), ("minutes", "minutes"), ("hours", "hours"), ("days", "days"))
#: A century; beyond it date arithmetic, ours and beat's, leaves the calendar.
LONGEST_DAYS = 36_525
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def job_choices(present: str = "") -> list[tuple[str, str]]:
    """The tasks that this installation has, with the label of the schedule that uses one."""
    current_app.loader.import_default_modules()
    labels = {spec.task: spec.label for spec in schedules}
    names = sorted(name for name in current_app.tasks if not name.startswith("celery."))
    choices = [("", "—")] + [(n, f"{labels[n]} ({n})" if n in labels else n) for n in names]
    if present and present not in current_app.tasks:
        choices.append((present, f"{present} (no code here has it)"))
    return choices


class WhenForm(forms.Form):
    """When it runs: exactly one of a cron and an interval. Also answers the live preview."""

    cron = forms.CharField(
        label="Cron",
        required=False,
        max_length=600,
        help_text="Minute, hour, day of the month, month, day of the week: “30 3 * * 1” is Monday, 03:30. "
        "A day must match both day fields.",
    )
    zone = forms.CharField(
        label="Time zone of the cron",
        required=False,
        max_length=63,
        help_text="A name such as Europe/Rome. Empty is UTC.",
    )
    every = forms.IntegerField(label="Or every", required=False, help_text="Instead of a cron: a number and its unit.")
    period = forms.ChoiceField(label="Unit", required=False, choices=PERIODS)

    #: A row with a schedule of another kind (by the sun, at one moment) may keep it.
    may_be_empty = False

    def clean_cron(self) -> str:
        text = " ".join(str(self.cleaned_data["cron"]).split())
        if not text:
            return ""
        try:
            return str(parse(text))
        except CronError as problem:
            raise ValidationError(str(problem)) from None

    def clean_zone(self) -> str:
        zone = str(self.cleaned_data["zone"]).strip() or str(getattr(settings, "CELERY_TIMEZONE", "UTC"))
        if zone not in available_timezones():
            raise ValidationError(f"There is no time zone “{zone}”. Write one as in Europe/Rome, or UTC.")
        return zone

    def clean_every(self) -> int | None:
        every: int | None = self.cleaned_data["every"]
        if every is not None and every < 1:
            raise ValidationError("An interval is at least 1.")
        return every

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        # The text as it was typed counts, so that a wrong cron is not called missing as well.
        cron, every = bool(str(self.data.get(self.add_prefix("cron"), "")).strip()), data.get("every")
        every_given = bool(str(self.data.get(self.add_prefix("every"), "")).strip())
        if cron and every_given:
            raise ValidationError("Give either a cron or an interval, not both.")
        if not cron and not every_given and not self.may_be_empty:
            raise ValidationError("Give a cron or an interval: it must be said when this runs.")
        if every and not data.get("period"):
            raise ValidationError({"period": "Choose the unit of the interval."})
        if every and every * _SECONDS[data["period"]] > LONGEST_DAYS * 86400:
            raise ValidationError({"every": f"An interval is at most {LONGEST_DAYS} days."})
        return data


class PeriodicTaskForm(WhenForm, forms.ModelForm):  # type: ignore[type-arg]  # a plain class at run time
    """A row of beat as an operator edits it."""

    job = forms.ChoiceField(label="Job", required=True, help_text="What runs. Workers must have its code.")

    class Meta:
        model = PeriodicTask
        fields = (
            "name", "enabled", "description", "args", "kwargs", "queue", "expire_seconds", "start_time", "one_off",
        )  # fmt: skip
        help_texts = {  # noqa: RUF012  (Django reads a plain dictionary here)
            "name": "What this schedule is called in lists and messages.",
            "enabled": "Off: it does not run until it is switched on again.",
            "description": "What it is for, for the next reader.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        task: PeriodicTask = self.instance
        self.may_be_empty = bool(task.solar_id or task.clocked_id) or "cron" not in self.fields
        if "job" in self.fields:
            self.fields["job"].choices = job_choices(task.task)  # type: ignore[attr-defined]  # a ChoiceField
        self._fill(task)
        for name in ("job", "cron", "zone", "every", "period"):
            if name in self.fields:
                theme_widget(self.fields[name])
        if "zone" in self.fields:
            self.fields["zone"].widget.attrs["list"] = "zt-time-zones"
        if "description" in self.fields:
            self.fields["description"].widget.attrs["rows"] = 3

    def _fill(self, task: PeriodicTask) -> None:
        self.initial.setdefault("job", task.task)
        self.initial.setdefault("period", "minutes")
        if task.crontab:
            row = task.crontab
            cron = f"{row.minute} {row.hour} {row.day_of_month} {row.month_of_year} {row.day_of_week}"
            self.initial.update(cron=cron, zone=str(row.timezone))
        elif task.interval:
            every, period = task.interval.every, task.interval.period
            if period == "microseconds":
                every, period = max(1, every // 1_000_000), "seconds"
            self.initial.update(every=every, period=period)

    def clean_start_time(self) -> datetime | None:
        """Within reach of date arithmetic, ours and beat's, whatever interval is added."""
        start: datetime | None = self.cleaned_data["start_time"]
        if start is not None and abs(start - clock.now()) > timedelta(days=LONGEST_DAYS):
            raise ValidationError("Within a hundred years of now.")
        return start

    def clean_args(self) -> str:
        return self._json("args", list, "a list, as in [1, 2]", "[]")

    def clean_kwargs(self) -> str:
        return self._json("kwargs", dict, 'an object, as in {"plan": 1}', "{}")

    def _json(self, name: str, kind: type, wanted: str, empty: str) -> str:
        text = str(self.cleaned_data[name]).strip() or empty
        try:
            found = json.loads(text, parse_constant=_no_constant)
        except ValueError as problem:
            raise ValidationError(f"This is no JSON: {problem}.") from None
        if not isinstance(found, kind):
            raise ValidationError(f"This must be {wanted}.")
        return text

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        if data.get("job"):
            self.instance.task = data["job"]
        if data.get("expire_seconds") is not None:
            self.instance.expires = None  # beat allows one of the two, and this form has no field for that one
        # Unsaved rows, so that the model sees a schedule; the shared ones are looked up when it is saved.
        if data.get("cron"):
            self._schedule(CrontabSchedule(**parse(data["cron"]).columns()), None)
        elif data.get("every"):
            self._schedule(None, IntervalSchedule(every=data["every"], period=data["period"]))
        elif not self.may_be_empty and not (self.instance.crontab or self.instance.interval):
            # It has failed with a sentence of ours; the model need not add its own.
            self._schedule(None, IntervalSchedule(every=1, period="days"))
        return data

    def _schedule(self, crontab: CrontabSchedule | None, interval: IntervalSchedule | None) -> None:
        task = self.instance
        task.crontab, task.interval, task.solar, task.clocked = crontab, interval, None, None

    def save(self, commit: bool = True) -> PeriodicTask:
        data = self.cleaned_data
        if data.get("cron"):
            self._schedule(rows.crontab_row(parse(data["cron"]), data["zone"]), None)
        elif data.get("every"):
            self._schedule(None, rows.interval_row(data["every"], data["period"]))
        if {"cron", "zone", "every", "period", "start_time"} & set(self.changed_data):
            # A new schedule counts from now: with the old last run it could be due at once.
            self.instance.last_run_at = None
        saved: PeriodicTask = super().save(commit)
        return saved
