"""A form for each kind of target, built from the table of settings that the kind brings, checked by the kind itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from django import forms

from controlplane.kernel.errors import ZantaraError
from deployments.targets import targets
from deployments.targets.base import Target

from .fields import LinesField, PairsField


def settings_of(target: Target) -> tuple[Any, ...]:
    """The table of the kind's settings; empty for a kind that has none, whose settings are then written as JSON."""
    return tuple(getattr(sys.modules.get(type(target).__module__), "SETTINGS", ()))


def field_name(kind: str, setting: str) -> str:
    """Of a kind's setting in the form, so that none can be one of the row's own fields."""
    return f"target_{kind}_{setting}"


def kind_choices(present: str = "") -> list[tuple[str, str]]:
    """Every kind; and the row's own, if no code here has it any more."""
    found = [(target.kind, target.label) for target in targets]
    return found if not present or present in targets else [*found, (present, f"{present}: no code here has it")]


def kind_fields(kind: str) -> dict[str, forms.Field]:
    """The form fields of one kind, by their names in the form."""
    return {field_name(kind, one.name): _field(one) for one in settings_of(targets.get(kind))}


def all_fields() -> dict[str, forms.Field]:
    return {name: field for target in targets for name, field in kind_fields(target.kind).items()}


def conditions() -> dict[str, str]:
    """Which field is shown for which kind (the theme's conditional fields)."""
    found = {name: f"target_kind == '{one.kind}'" for one in targets for name in kind_fields(one.kind)}
    plain = [one.kind for one in targets if not settings_of(one)]
    return {**found, "target_settings": " || ".join(f"target_kind == '{kind}'" for kind in plain) or "false"}


def _field(setting: Any) -> forms.Field:
    label = setting.name.replace("_", " ").capitalize().replace(" mb", ", MB")
    common = {"label": label, "help_text": setting.help, "required": False}
    if isinstance(setting.default, bool):
        return forms.BooleanField(**common)
    if isinstance(setting.default, list | tuple):
        return LinesField(widget=forms.Textarea(attrs={"rows": 3}), **common)
    if isinstance(setting.default, Mapping):
        return PairsField(widget=forms.Textarea(attrs={"rows": 3}), **common)
    return forms.CharField(max_length=2000, **common)


def initial_of(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the form shows of a row's settings; what is not set shows the kind's default."""
    return {
        field_name(kind, one.name): settings.get(one.name, one.default)
        for one in (settings_of(targets.get(kind)) if kind in targets else ())
    }


def checked(kind: str, cleaned: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings as the kind accepts them, else the errors by field (``target_kind`` where it names no setting)."""
    if kind not in targets:
        return {}, {"target_kind": f"No code here has the kind {kind}."}
    target = targets.get(kind)
    table = settings_of(target)
    given = (
        {one.name: cleaned.get(field_name(kind, one.name)) for one in table}
        if table
        else dict(cleaned.get("target_settings") or {})
    )
    given = {name: value for name, value in given.items() if value not in (None, "")}
    try:
        return dict(target.check_settings(given)), {}
    except ZantaraError as refused:
        said = str(refused)
        named = [one.name for one in table if f"'{one.name}'" in said or one.name.replace("_", " ") in said.lower()]
        return {}, {field_name(kind, named[0]) if named else "target_kind": said}
