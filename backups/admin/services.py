"""Services that a restore may stop: commands that run on this host, so only administrators write them."""

from __future__ import annotations

from django import forms
from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import ControlledService
from backups.services import split_command
from controlplane.console.base import HistoryModelAdmin, display
from controlplane.kernel.errors import Refused


class ServiceForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """Each command must split into words, or a restore would find out at its worst moment."""

    class Meta:
        model = ControlledService
        fields = ("name", "stop_command", "start_command", "status_command", "timeout_seconds")
        help_texts = {  # noqa: RUF012  (Django reads a plain dictionary here)
            "stop_command": "Run as it is, never by a shell, with our own rights. It ends when the service is stopped.",
            "start_command": "The same the other way round.",
            "timeout_seconds": "A command that takes longer is killed.",
        }

    def _split(self, name: str) -> str:
        text = str(self.cleaned_data[name]).strip()
        if text:
            try:
                split_command(text, name.replace("_", " "))
            except Refused as wrong:
                raise forms.ValidationError(str(wrong)) from None
        return text

    def clean_stop_command(self) -> str:
        return self._split("stop_command")

    def clean_start_command(self) -> str:
        return self._split("start_command")

    def clean_status_command(self) -> str:
        return self._split("status_command")


@admin.register(ControlledService)
class ControlledServiceAdmin(HistoryModelAdmin[ControlledService]):
    """One row per service."""

    form = ServiceForm
    list_display = ("name", "stop_shown", "start_shown", "timeout_seconds")
    search_fields = ("name",)
    ordering = ("name",)
    empty_state = (
        "A restore can stop services while data are swapped. Those of the stack on this machine are known by "
        "themselves; describe others here by the commands that stop and start them."
    )

    @display(description="Stopped by")
    def stop_shown(self, service: ControlledService) -> SafeString:
        return format_html("<code>{}</code>", service.stop_command)

    @display(description="Started by")
    def start_shown(self, service: ControlledService) -> SafeString:
        return format_html("<code>{}</code>", service.start_command)
