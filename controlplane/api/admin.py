"""Tokens in the admin: made (and shown once), looked at, revoked."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from controlplane.console.base import Dialog, OpsModelAdmin, Tone, action, badge, display, since
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from .forms import TokenForm
from .models import ApiToken
from .scopes import SCOPES
from .tokens import make_token, revoke

_STANDING: dict[str, tuple[str, Tone, str]] = {
    "good": ("valid", "ok", "check_circle"),
    "expired": ("expired", "muted", "schedule"),
    "revoked": ("revoked", "bad", "block"),
}
_NEW = "_zantara_new_token"
_SHOWN = (
    "name", "shown_prefix", "standing", "owner", "shown_scopes", "shown_role", "expires", "last_used", "made",
    "shown_revoked",
)  # fmt: skip


@admin.register(ApiToken)
class ApiTokenAdmin(OpsModelAdmin[ApiToken]):
    """Rights of programs. A token is never changed: revoke it and make another."""

    form = TokenForm
    list_display = ("name", "shown_prefix", "standing", "owner", "shown_scopes", "expires", "last_used")
    list_filter = ("owner",)
    list_select_related = ("owner",)
    search_fields = ("name", "prefix", "owner__username")
    search_help_text = "Name, prefix or owner"
    actions_row = ("revoke_token",)
    actions_detail = ("revoke_token",)
    warn_unsaved_form = False
    empty_state = "No tokens: no program may call the API. Add one for your CI, with only the scopes that it needs."

    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> Any:
        return ("name", "owner", "scopes", "life_days", "role") if obj is None else _SHOWN

    def get_readonly_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> Any:
        return () if obj is None else _SHOWN

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"owner": request.user.pk, **super().get_changeform_initial_data(request)}

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return request.user.has_perm("api.revoke_apitoken")

    # --- making one ------------------------------------------------------------------------------

    def get_form(self, request: HttpRequest, obj: ApiToken | None = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:  # only shown: the form of a new one asks for what a token is made of
            return super().get_form(request, obj, change, form=ModelForm, **kwargs)
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.maker = request.user
        return form

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        request.__dict__[_NEW] = make_token(obj, maker=request.user)

    def response_add(self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None) -> HttpResponse:
        """The page that shows the token, in answer to the form itself: nothing of its text is kept for a later one."""
        context = {
            **self.admin_site.each_context(request),
            "title": "A new API token",
            "opts": self.opts,
            "token": obj,
            "text": request.__dict__.pop(_NEW),
            "scopes": [SCOPES[name] for name in obj.scopes],
        }
        headers = {"Cache-Control": "no-store"}
        return TemplateResponse(request, "admin/api/new_token.html", context, headers=headers)

    # --- looking at them -------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        return super().get_queryset(request).select_related("owner")

    @display(description="Prefix", ordering="prefix")
    def shown_prefix(self, token: ApiToken) -> SafeString:
        return format_html("<code>{}…</code>", token.prefix)

    @display(description="State")
    def standing(self, token: ApiToken) -> SafeString:
        if not token.owner.is_active and token.standing(clock.now()) == "good":
            return badge("owner is locked", "bad", "block")
        return badge(*_STANDING[token.standing(clock.now())])

    @display(description="Scopes")
    def shown_scopes(self, token: ApiToken) -> SafeString:
        return format_html_join(" ", "<code>{}</code>", ((scope,) for scope in token.scopes))

    @display(description="Role for the limits")
    def shown_role(self, token: ApiToken) -> str:
        return token.role or "the owner's"

    @display(description="Expires", ordering="expires_at")
    def expires(self, token: ApiToken) -> SafeString:
        return since(token.expires_at)

    @display(description="Last used", ordering="last_used_at")
    def last_used(self, token: ApiToken) -> SafeString:
        return since(token.last_used_at) if token.last_used_at else badge("never", "muted")

    @display(description="Made", ordering="created_at")
    def made(self, token: ApiToken) -> SafeString:
        return format_html("{} by {}", since(token.created_at), token.created_by)

    @display(description="Revoked")
    def shown_revoked(self, token: ApiToken) -> SafeString | str:
        return format_html("{} by {}", since(token.revoked_at), token.revoked_by) if token.revoked_at else "no"

    @action(
        permission="revoke",
        description="Revoke",
        icon="block",
        variant="danger",
        dialog=Dialog(
            "Revoke this token", "Whatever uses it is refused from now on. There is no undo.", submit="Revoke"
        ),
    )
    def revoke_token(self, request: HttpRequest, form: Any, object_id: Any) -> None:
        token = self.get_object(request, str(object_id))
        if token is None:
            raise Refused("This token is gone.", remedy="Load the list again.")
        revoke(token, actor=request.user.get_username())
        self.log_change(request, token, "Revoked.")
        messages.success(request, f"{token.name} is revoked.")
