"""The forms of the dialogs: what is asked before something is done to a service or a deployment."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from controlplane.console.base import DialogForm
from deployments.models import Release

#: In the list of releases: none of them, but a new one.
A_NEW_ONE = "A new release"


def reason_field(help_text: str, *, required: bool = True) -> forms.CharField:
    """A sentence for the history."""
    return forms.CharField(
        label="Reason", required=required, max_length=300, help_text=help_text, widget=forms.Textarea(attrs={"rows": 2})
    )


class ReasonForm(DialogForm):
    """Why: needed where something is taken away from somebody."""

    reason = reason_field("Kept in the events.")


class MaybeReasonForm(DialogForm):
    """Why, if there is something to say."""

    reason = reason_field("Kept in the events; may be empty.", required=False)


class DeployForm(DialogForm):
    """One of the service's releases, or a new one described here."""

    release = forms.ModelChoiceField(
        queryset=Release.objects.none(), required=False, empty_label=A_NEW_ONE, help_text="Newest first."
    )
    version = forms.CharField(label="Version", max_length=64, required=False)
    source_kind = forms.ChoiceField(label="Source", choices=Release.Source.choices, required=False)
    source = forms.CharField(
        label="Where it is", max_length=500, required=False, help_text="A repository, a directory, or an image."
    )
    ref = forms.CharField(label="Branch, tag or commit", max_length=200, required=False, help_text="Of a repository.")
    forward_only = forms.BooleanField(
        label="Forward-only", required=False, help_text="There is no way back from it: no rollback by itself."
    )
    reason = reason_field("Kept with the deployment; may be empty.", required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = Release.objects.filter(service_id=self.object_id or 0).select_related("service")
        chosen: Any = self.fields["release"]
        chosen.queryset, chosen.label_from_instance = own, _release_words
        newest = own.first()
        if newest is not None:
            self.initial.setdefault("source_kind", newest.source_kind)
            self.initial.setdefault("source", newest.source)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if data.get("release") is None and "release" not in self.errors:
            for name, needed in (("version", "Say which version it is."), ("source", "Say where it is.")):
                if not data.get(name) and name not in self.errors:
                    self.add_error(name, ValidationError(needed))
        return data


def _release_words(release: Release) -> str:
    return f"{release.version} ({release.created_at:%Y-%m-%d %H:%M}{', forward-only' if release.forward_only else ''})"
