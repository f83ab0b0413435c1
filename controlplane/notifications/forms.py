"""The form of a channel. What was entered as a credential is never shown again."""

from __future__ import annotations

from typing import Any

from django import forms

from controlplane.console.base import theme_widget
from controlplane.kernel.errors import Refused

from . import sending
from .api import kinds
from .models import Channel

_KEPT = "Set. Leave empty to keep it."


class ChannelForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    address = forms.CharField(
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="https://… of a webhook; or an Apprise address such as mailto://user:password@mail.example.org.",
    )
    secret = forms.CharField(
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Signs what a webhook gets (HMAC-SHA256). Services of Apprise need none.",
    )
    kinds = forms.MultipleChoiceField(
        required=False, widget=forms.SelectMultiple(attrs={"size": 8}), help_text="None chosen: all kinds."
    )

    class Meta:
        model = Channel
        fields = ("name", "kind", "address", "secret", "least_severity", "kinds", "active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "kinds" not in self.fields:  # somebody who may only look
            return
        self.fields["kinds"].choices = [(kind.name, kind.label) for kind in kinds]  # type: ignore[attr-defined]
        for name in ("address", "secret"):
            if self.instance.pk and getattr(self.instance, name):
                self.fields[name].help_text = _KEPT
            self.initial[name] = ""
        for field in self.fields.values():
            theme_widget(field)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        for name in ("address", "secret"):
            data[name] = data.get(name) or getattr(self.instance, name, "") or ""
        if not data["address"]:
            self.add_error("address", "An address is needed.")
        elif data.get("kind"):
            try:
                sending.check_address(data["kind"], data["address"])
            except Refused as refused:
                self.add_error("address", str(refused))
        return data
