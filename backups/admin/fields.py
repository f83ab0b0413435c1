"""Form fields that several of our forms use."""

from __future__ import annotations

from typing import Any

from django import forms

_STATES = {
    True: "Set; leave empty to keep it.",
    False: "Not set.",
    None: "Set, but this installation's key does not open it: put the old key back, or enter the secret again.",
}


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


class SecretField(forms.CharField):
    """Write-only: never rendered back. Empty keeps what is there; its help says whether something is.

    ``is_set`` None: something is, and this installation's key does not open it.
    """

    def __init__(self, *, is_set: bool | None, **kwargs: Any) -> None:
        required = kwargs.pop("required", False) and not is_set
        super().__init__(
            required=required,
            widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
            strip=True,
            **kwargs,
        )
        state = _STATES[is_set]
        self.help_text = f"{state} {self.help_text}".strip()
        self.is_set = is_set

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)
