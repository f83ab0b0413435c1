"""The form of a new token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError

from controlplane.console.base import theme_widget
from controlplane.identity.roles import priorities
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from .models import ApiToken
from .scopes import SCOPES
from .tokens import check_grant

#: How long a token may live, in days.
LIVES = ((7, "7 days"), (30, "30 days"), (90, "90 days"), (180, "half a year"), (365, "a year"))


class TokenForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """Name, owner, scopes and life; what may be granted is settled by ``tokens.make_token``."""

    scopes = forms.MultipleChoiceField(
        choices=[(scope.name, f"{scope.name}: {scope.what}") for scope in SCOPES.values()],
        widget=forms.CheckboxSelectMultiple,
    )
    role = forms.ChoiceField(required=False, help_text="For the limits. Empty: the owner's, as his groups say.")
    life_days = forms.TypedChoiceField(choices=LIVES, coerce=int, initial=90, label="Lives for")

    #: Who makes it; the admin names him.
    maker: Any = None

    class Meta:
        model = ApiToken
        fields = ("name", "owner", "scopes", "role")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["owner"].queryset = get_user_model().objects.filter(is_active=True)  # type: ignore[attr-defined]
        self.fields["role"].choices = [("", "the owner's"), *((name, name) for name in priorities())]  # type: ignore[attr-defined]
        for name in ("scopes", "role", "life_days"):
            theme_widget(self.fields[name])

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"]).strip()
        if ApiToken.objects.filter(name=name, revoked_at__isnull=True).exists():
            raise ValidationError("There is a token of this name that is not revoked.")
        return name

    def clean(self) -> dict[str, Any] | None:
        """Whatever the maker may not grant is said here, and nothing is saved."""
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        now = clock.now()
        self.instance.expires_at = now + timedelta(days=cleaned["life_days"])
        wanted = ApiToken(
            owner=cleaned["owner"], scopes=cleaned["scopes"], role=cleaned["role"], expires_at=self.instance.expires_at
        )
        try:
            check_grant(wanted, maker=self.maker, now=now)
        except Refused as refused:
            raise ValidationError(str(refused)) from None
        return cleaned
