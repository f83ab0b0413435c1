"""A form per kind of source, built from the fields that the kind says it has."""

from __future__ import annotations

from typing import Any

from django import forms

from backups.models import BackupSource
from backups.sources.base import SettingField, Source, kinds
from controlplane.console.base import theme_widget
from controlplane.kernel.errors import ConfigurationError, ZantaraError

from .fields import LinesField, SecretField

#: Before the names of a kind's settings, so that none can be one of the row's own fields.
PREFIX = "set_"
_FORGET = "forget_"


class SourceFormBase(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """The row's own fields; a kind's are added by :func:`form_for`."""

    kind_class: type[Source]

    class Meta:
        model = BackupSource
        fields = ("name", "enabled")
        help_texts = {  # noqa: RUF012  (Django reads a plain dictionary here)
            "name": "Names its folder in every set: small letters, digits, dashes.",
            "enabled": "Off: it is left out of new backups.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings, self.stored = self.instance.settings or {}, stored_secrets(self.instance)
        for setting in self.kind_class.fields:
            name = PREFIX + setting.name
            if name not in self.fields:
                continue  # the person may only look
            if setting.type == "secret":
                is_set = None if self.stored is None else bool(self.stored.get(setting.name))
                self.fields[name] = SecretField(
                    is_set=is_set, label=setting.label, help_text=setting.help, required=setting.required
                )
                if not is_set or setting.required:
                    self.fields[_FORGET + setting.name].widget = forms.HiddenInput()
            else:
                self.initial.setdefault(name, settings.get(setting.name, setting.default))
        for field in self.fields.values():
            theme_widget(field)

    def clean(self) -> dict[str, Any]:
        """The kind itself says whether the settings make sense; what it says goes to the setting that it names."""
        data = super().clean() or self.cleaned_data
        if self.errors:
            return data
        settings, secrets = self._typed()
        try:
            self.instance.settings = self.kind_class.clean(settings, secrets)
        except ZantaraError as refused:
            self.add_error(self._meant(str(refused)), str(refused))
        else:
            if self.stored is not None or secrets:  # secrets that could not be read are not overwritten by nothing
                self.instance.secrets = secrets
            self.instance.kind = self.kind_class.kind
        return data

    def _typed(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings and secrets as they would be saved: an empty secret keeps what is there."""
        settings: dict[str, Any] = {}
        secrets = dict(self.stored or {})
        for setting in self.kind_class.fields:
            value = self.cleaned_data.get(PREFIX + setting.name)
            if setting.type != "secret":
                settings[setting.name] = setting.default if value is None else value
            elif value:
                secrets[setting.name] = value
            elif self.cleaned_data.get(_FORGET + setting.name):
                secrets.pop(setting.name, None)
        return settings, secrets

    def _meant(self, message: str) -> str | None:
        for setting in self.kind_class.fields:
            if f"“{setting.name}”" in message or f"'{setting.name}'" in message or setting.label in message:
                return PREFIX + setting.name
        return None


def stored_secrets(source: BackupSource) -> dict[str, str] | None:
    """The secrets of the row; None where this installation's key does not open them."""
    try:
        return dict(source.secrets or {})
    except ConfigurationError:
        return None


def form_for(kind: str) -> type[SourceFormBase]:
    """The form class of one kind."""
    kind_class = kinds.get(kind)
    fields: dict[str, Any] = {"kind_class": kind_class}
    for setting in kind_class.fields:
        fields[PREFIX + setting.name] = _field(setting)
        if setting.type == "secret":
            fields[_FORGET + setting.name] = forms.BooleanField(label=f"Forget: {setting.label}", required=False)
    return type(f"{kind.title().replace('_', '')}SourceForm", (SourceFormBase,), fields)


def field_names(kind: str) -> list[str]:
    """The names of a kind's fields, in its order."""
    names = []
    for setting in kinds.get(kind).fields:
        names.append(PREFIX + setting.name)
        if setting.type == "secret":
            names.append(_FORGET + setting.name)
    return names


def _field(setting: SettingField) -> forms.Field:
    common: dict[str, Any] = {"label": setting.label, "help_text": setting.help, "required": setting.required}
    match setting.type:
        case "lines":
            return LinesField(widget=forms.Textarea(attrs={"rows": 4}), **common)
        case "integer":
            return forms.IntegerField(**common)
        case "flag":
            return forms.BooleanField(**{**common, "required": False})
        case "choice":
            choices = setting.choices if setting.required else (("", "—"), *setting.choices)
            return forms.ChoiceField(choices=choices, **common)
        case "secret":
            return forms.CharField(**{**common, "required": False})
        case _:
            return forms.CharField(max_length=2000, **common)
