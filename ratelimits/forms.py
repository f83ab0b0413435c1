"""The operator's forms: durations in words, and a save that never overwrites what its maker has not seen."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import DialogForm, theme_widget
from controlplane.identity.addresses import INVALID, resolve_client
from controlplane.identity.config import proxy_settings

from .models import LONGEST_WINDOW_SECONDS, RateLimitProfile
from .wording import duration_words, limit_words, parse_words


class DurationField(forms.IntegerField):
    """Whole seconds, typed as “15m”, “1 h 30 min” or “900” and shown as “15 min”."""

    widget = forms.TextInput

    def __init__(self, **kwargs: Any) -> None:
        for bound in ("min_value", "max_value", "step_size"):  # the model's; ours below speak of durations
            kwargs.pop(bound, None)
        super().__init__(**kwargs)

    def to_python(self, value: Any) -> int | None:
        if value in self.empty_values:
            return None
        if isinstance(value, int):
            return value
        try:
            seconds = parse_words(str(value))
        except ValueError as error:
            raise ValidationError(str(error)[:1].upper() + str(error)[1:] + ".", code="invalid") from None
        if not 1 <= seconds <= LONGEST_WINDOW_SECONDS:
            raise ValidationError("Between 1 s and 31 days.", code="out_of_bounds")
        return seconds

    def prepare_value(self, value: Any) -> Any:
        return duration_words(value) if isinstance(value, int) else value


class _CarriesVersion(forms.BoundField):
    """``requests`` is rendered with a hidden input behind it that says which version the page showed."""

    def as_widget(self, widget: Any = None, attrs: Any = None, only_initial: bool = False) -> SafeString:
        shown = super().as_widget(widget, attrs, only_initial)
        form = self.form
        if self.name != "requests" or widget is not None or not isinstance(form, _ProfileFormBase):
            return shown
        # A refused form keeps the version it was made from: pressing "save" again must not get it through.
        name = form.add_prefix("seen_version")
        version = form.data.get(name, "") if form.is_bound else form.instance.version
        return format_html('{}<input type="hidden" name="{}" value="{}">', shown, name, version)


class _ProfileFormBase(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """Refuses to save over a version that the maker of the form has not seen."""

    bound_field_class = _CarriesVersion

    def seen_version(self) -> int:
        """The version that the page showed; -1 if it did not say, which no row ever has."""
        text = str(self.data.get(self.add_prefix("seen_version"), ""))
        return int(text) if text.isascii() and text.isdigit() else -1

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if self.instance.pk and self.has_changed() and self.seen_version() != self.instance.version:
            newest = self.instance.history.select_related("history_user").first()
            by = f" by {newest.history_user}" if newest is not None and newest.history_user else ""
            raise ValidationError(
                f"“{self.instance}” has been changed{by} since you loaded the page: it is now "
                f"{limit_words(self.instance.as_policy())}. Nothing of yours was saved. "
                "Load the page again, look at the change, then decide.",
                code="stale",
            )
        return cleaned


class ProfileForm(_ProfileFormBase):
    """The page of one profile."""

    class Meta:
        model = RateLimitProfile
        exclude = ("version",)  # noqa: DJ006  (the admin's fieldsets name what is shown)


class ProfileRowForm(_ProfileFormBase):
    """One row of the list. What counts as changed is what its maker changed, not what others did meanwhile."""

    class Meta:
        model = RateLimitProfile
        fields = ("requests", "enforced", "active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.show_hidden_initial = True

    def _get_validation_exclusions(self) -> set[str]:
        """Check the whole row: activating one may clash with another over fields that the list does not edit."""
        usual: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # Django's own hook, untyped
        return {name for name in usual if name in self.fields}

    def add_error(self, field: str | None, error: Any) -> None:
        """What is wrong with a field that the list does not show is said at the row."""
        if field is None and hasattr(error, "error_dict"):
            for name, errors in error.error_dict.items():
                super().add_error(name if name in self.fields else None, errors)
        else:
            super().add_error(field, error)


def bucket_of(text: str) -> str:
    """The address as it is counted: IPv6 by its network. Empty stays empty; ValidationError for nonsense."""
    text = text.strip()
    if not text or text == INVALID:
        return text
    client = resolve_client(text, "", trusted=(), ipv6_prefix=proxy_settings().ipv6_prefix)
    if client.ip is None:
        raise ValidationError(f"“{text}” is not an IP address.")
    return client.address


class ResetCallerForm(DialogForm):
    """Whose count goes back to nothing."""

    subject = forms.CharField(
        required=False, max_length=200, help_text="The token's “sub”, or the Django user name. Empty: a caller without."
    )
    address = forms.CharField(
        required=False, max_length=64, help_text="As the service saw it, for example 192.0.2.7 or 2001:db8::1."
    )

    def clean_address(self) -> str:
        return bucket_of(self.cleaned_data["address"])

    def clean_subject(self) -> str:
        return str(self.cleaned_data["subject"]).strip()

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean() or self.cleaned_data
        profile = RateLimitProfile.objects.filter(pk=self.object_id or 0).first()
        if profile is None or self.errors:
            return cleaned
        if profile.key in ("ip:user", "ip") and not cleaned.get("address"):
            self.add_error("address", "This profile counts per address: give the caller's.")
        elif profile.key == "user|ip" and not (cleaned.get("address") or cleaned.get("subject")):
            self.add_error("subject", "Give the subject, or the address of a caller without one.")
        return cleaned


class ExplainForm(forms.Form):
    """A decision id, and perhaps the caller who is thought to be behind it."""

    decision_id = forms.CharField(max_length=1000, help_text="The “decision_id” of the 429 that the caller received.")
    subject = forms.CharField(
        required=False, max_length=200, help_text="Was it this caller? The token's “sub”, or the Django user name."
    )
    address = forms.CharField(required=False, max_length=64, help_text="And his address, where it is counted by.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            theme_widget(field)

    def clean_address(self) -> str:
        return bucket_of(self.cleaned_data["address"])
