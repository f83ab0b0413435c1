"""The form of a plan: its sources, its times (rows of beat), and the rules by which its sets are kept."""

from __future__ import annotations

from typing import Any

import pyrage
from django import forms
from django.core.exceptions import ValidationError

from backups import beat
from backups.models import BackupPlan, BackupSource, StorageTarget
from controlplane.console.base import theme_widget

from .when import clean_cron, clean_zone

_CRON_HELP = "Minute, hour, day of the month, month, day of the week: “0 2 * * *” is every day, 02:00."
_DRILL_HELP = "The newest set is restored into scratch and compared with what was saved."
_ZONE_HELP = "A name such as Europe/Rome. Empty is UTC."


class PlanForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """What is saved, where to, when, and for how long."""

    sources = forms.ModelMultipleChoiceField(
        queryset=BackupSource.objects.defer("secrets"),
        widget=forms.CheckboxSelectMultiple,
        help_text="Together they are one restore point; each can be restored on its own.",
    )
    cron = forms.CharField(label="Runs at", required=False, max_length=600, help_text=_CRON_HELP)
    zone = forms.CharField(label="in the time zone", required=False, max_length=63, help_text=_ZONE_HELP)
    scheduled = forms.BooleanField(label="Runs by itself", required=False)
    drill_cron = forms.CharField(label="Drills at", required=False, max_length=600, help_text=_DRILL_HELP)
    drill_zone = forms.CharField(label="in the time zone", required=False, max_length=63, help_text=_ZONE_HELP)
    drill_scheduled = forms.BooleanField(label="Drills by itself", required=False)

    class Meta:
        model = BackupPlan
        fields = (
            "name", "description", "enabled", "sources", "target", *BackupPlan.RULES, "compress", "compression_level",
            "extra_recipients", "stall_seconds", "rpo_hours", "verify_full_days", "drill_after_backup",
        )  # fmt: skip
        labels = {  # noqa: RUF012  (Django reads a plain dictionary here)
            "keep_last": "Newest",
            "keep_hourly": "Hours",
            "keep_daily": "Days",
            "keep_weekly": "Weeks",
            "keep_monthly": "Months",
            "keep_yearly": "Years",
            "keep_within_days": "All of the last … days",
            "compress": "Compress",
            "extra_recipients": "More recipients",
            "stall_seconds": "Stall timeout, seconds",
            "rpo_hours": "Warn after hours without a backup",
            "verify_full_days": "Re-read everything within days",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plan: BackupPlan = self.instance
        runs = beat.read_schedule(plan) if plan.pk else beat.Times(beat.DEFAULT_CRON)
        drills = beat.read_drill_schedule(plan) if plan.pk else beat.Times(beat.DEFAULT_DRILL_CRON)
        for prefix, times in (("", runs), ("drill_", drills)):
            self.initial.setdefault(f"{prefix}cron", times.cron if times else "")
            self.initial.setdefault(f"{prefix}zone", times.zone if times else "UTC")
            self.initial.setdefault(f"{prefix}scheduled", times.enabled if times else False)
        for name in ("sources", "cron", "zone", "scheduled", "drill_cron", "drill_zone", "drill_scheduled"):
            if name in self.fields:
                theme_widget(self.fields[name])
        if "target" in self.fields:
            self.fields["target"].queryset = StorageTarget.objects.defer("secret_access_key")  # type: ignore[attr-defined]
        if "extra_recipients" in self.fields:
            self.fields["extra_recipients"].widget.attrs["rows"] = 3
        for name in ("zone", "drill_zone"):
            if name in self.fields:
                self.fields[name].widget.attrs["list"] = "zt-time-zones"

    def clean_cron(self) -> str:
        return clean_cron(self.cleaned_data["cron"])

    def clean_zone(self) -> str:
        return clean_zone(self.cleaned_data["zone"])

    def clean_drill_cron(self) -> str:
        return clean_cron(self.cleaned_data["drill_cron"])

    def clean_drill_zone(self) -> str:
        return clean_zone(self.cleaned_data["drill_zone"])

    def clean_extra_recipients(self) -> str:
        keys = str(self.cleaned_data["extra_recipients"]).split()
        for key in keys:
            try:
                pyrage.x25519.Recipient.from_str(key)
            except pyrage.RecipientError:
                raise ValidationError(f"“{key[:80]}” is no age public key. One begins with age1.") from None
        return "\n".join(keys)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        for prefix, what in (("", "runs"), ("drill_", "drills")):
            if data.get(f"{prefix}scheduled") and f"{prefix}cron" in data and not data[f"{prefix}cron"]:
                self.add_error(f"{prefix}cron", f"Say when it {what}, or let it not do so by itself.")
        if all(name in data and not data[name] for name in BackupPlan.RULES):
            raise ValidationError("These rules keep nothing: a plan keeps at least its newest set. Raise one of them.")
        return data

    def times(self) -> tuple[beat.Times | None, beat.Times | None]:
        """When it runs and drills, as typed; None: leave the rows of beat as they are."""
        return self._times(""), self._times("drill_")

    def _times(self, prefix: str) -> beat.Times | None:
        data = self.cleaned_data
        names = [f"{prefix}cron", f"{prefix}zone", f"{prefix}scheduled"]
        if not all(name in data for name in names) or not data[names[0]]:
            return None
        if self.instance.pk and not set(names) & set(self.changed_data) and not self._is_new(prefix):
            return None
        return beat.Times(*(data[name] for name in names))

    def _is_new(self, prefix: str) -> bool:
        return getattr(self.instance, "drill_schedule_id" if prefix else "schedule_id") is None
