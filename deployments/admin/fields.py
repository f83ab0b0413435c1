"""Form fields of our own: variables as lines, and secret ones that are written and never shown again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def parse_pairs(text: str) -> dict[str, str]:
    """``NAME=value`` lines as a dictionary; ValidationError names the line that is none."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, is_pair, value = line.partition("=")
        if not is_pair or not _NAME.fullmatch(name.strip()):
            # The line itself may hold a secret: only its number is told.
            raise ValidationError(f"Line {number} is not of the form NAME=value.")
        found[name.strip()] = value.strip()
    return found


class LinesField(forms.CharField):
    """A list of texts, one a line."""

    widget = forms.Textarea

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return list(value)
        return [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.to_python(initial or "") != self.to_python(data))


class PairsField(forms.CharField):
    """A dictionary of texts, ``NAME=value`` a line."""

    widget = forms.Textarea

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, Mapping) else value

    def to_python(self, value: Any) -> Any:
        return dict(value) if isinstance(value, Mapping) else parse_pairs(super().to_python(value) or "")

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(initial or {}) != self.to_python(data))
        except ValidationError:
            return True


class SecretPairsField(forms.CharField):
    """Variables that are written and never rendered back. ``names`` are those that are set; None: not readable.

    A line adds or replaces one; ``NAME=`` with nothing behind it forgets it; what is not named stays.
    """

    def __init__(self, *, names: list[str] | None, **kwargs: Any) -> None:
        super().__init__(
            required=False,
            widget=forms.Textarea(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
            **kwargs,
        )
        if names is None:
            said = "Some are set, but this installation's key does not open them: enter all of them again."
        else:
            said = f"Set: {', '.join(sorted(names))}." if names else "None is set."
        self.help_text = f"{said} A line NAME=value adds or replaces one, NAME= forgets it; values are never shown."

    def prepare_value(self, value: Any) -> str:
        """Never what was typed either: a form that is refused comes back without it."""
        return ""

    def to_python(self, value: Any) -> Any:
        return parse_pairs(super().to_python(value) or "")

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)
