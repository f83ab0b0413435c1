"""The forms of the dialogs: what is asked before something is done to a backup."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from backups.models import BackupPlan, BackupRecord
from controlplane.console.base import DialogForm

from .words import LEVEL_MEANS, LEVELS


def reason_field(help_text: str, *, required: bool = True) -> forms.CharField:
    """A sentence for the history."""
    return forms.CharField(
        label="Reason", required=required, max_length=500, help_text=help_text, widget=forms.Textarea(attrs={"rows": 2})
    )


class ReasonForm(DialogForm):
    """Why: it is written into the events."""

    reason = reason_field("Kept in the events.")


class RunPlanForm(DialogForm):
    """A run of one plan."""

    reason = reason_field("Kept with the backup; may be empty.", required=False)


class RunNowForm(RunPlanForm):
    """A run of a plan that is chosen here."""

    plan = forms.ModelChoiceField(queryset=BackupPlan.objects.none(), empty_label=None)
    field_order = ("plan", "reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["plan"].queryset = BackupPlan.objects.order_by("-enabled", "name")  # type: ignore[attr-defined]


class VerifyForm(DialogForm):
    """How far up the ladder, short of restoring."""

    level = forms.TypedChoiceField(
        label="How far",
        coerce=int,
        initial=2,
        choices=[(level, f"{LEVELS[level]}: {LEVEL_MEANS[level]}") for level in (0, 1, 2)],
        widget=forms.RadioSelect,
    )


class PinForm(DialogForm):
    """Why it is kept for ever."""

    reason = reason_field("It is kept until somebody unpins it, whatever the plan says.")


class DeleteForm(DialogForm):
    """The id typed in, and why."""

    typed = forms.CharField(label="Id", max_length=80, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    reason = reason_field("Kept with the record, which stays as a tombstone.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.expected = BackupRecord.objects.filter(pk=self.object_id or 0).values_list("name", flat=True).first() or ""
        self.fields["typed"].help_text = f"Type {self.expected}"

    def clean_typed(self) -> str:
        return typed_id(self.cleaned_data["typed"], self.expected)


def typed_id(typed: str, expected: str) -> str:
    """The id as it was typed; ValidationError for another one."""
    if typed.strip() != expected:
        raise ValidationError("This is not the id of this backup. Nothing was done.")
    return expected
