"""Storage targets in the admin: a directory or a bucket; the secret is written, never shown."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import StorageTarget, TargetState
from backups.sources.base import Finding
from backups.storage.state import check_target
from backups.storage.targets import check_settings
from controlplane.console.base import (
    Dialog,
    HistoryModelAdmin,
    action,
    badge,
    display,
    human_bytes,
    since,
    theme_widget,
)
from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError, Refused, ZantaraError

from .access import may
from .base import OurMedia
from .fields import SecretField
from .findings import tested
from .words import small

_S3_ONLY = ("endpoint_url", "bucket", "prefix", "region", "path_style", "checksum_mode", "access_key_id")
#: Below this share of free space a target is not well (the health of the system says the same).
LEAST_FREE_SHARE = 0.1


class TargetForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """A target. The secret's column is not among the model's form fields: it is read from a field of its own."""

    secret = forms.CharField(required=False)

    class Meta:
        model = StorageTarget
        fields = ("name", "kind", "path", *_S3_ONLY)
        labels = {  # noqa: RUF012  (Django reads a plain dictionary here)
            "endpoint_url": "Endpoint",
            "path_style": "Bucket in the path",
            "checksum_mode": "Checksums",
            "access_key_id": "Access key id",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "secret" in self.fields:
            text = "Stored encrypted, never shown again. Forgotten where the access key id is emptied."
            is_set = has_secret(self.instance)
            self.fields["secret"] = SecretField(is_set=is_set, label="Secret access key", help_text=text)
            theme_widget(self.fields["secret"])

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if data.get("secret"):
            self.instance.secret_access_key = data["secret"]
        elif not data.get("access_key_id"):
            self.instance.secret_access_key = ""  # the two go together
        return data

    def _post_clean(self) -> None:
        """What the store's own code finds wrong is said at its field."""
        super()._post_clean()  # type: ignore[misc]  # Django's own hook, untyped
        try:
            wrong = check_settings(self.instance)
        except ConfigurationError as unreadable:
            wrong = [("secret_access_key", str(unreadable))]
        for column, message in wrong:
            field = "secret" if column == "secret_access_key" else column
            if field in self.fields and field not in self.errors:
                self.add_error(field, message)


def has_secret(target: StorageTarget) -> bool | None:
    """Whether a secret is stored; None where this installation's key does not open it."""
    try:
        return bool(target.secret_access_key)
    except ConfigurationError:
        return None


@admin.register(StorageTarget)
class StorageTargetAdmin(HistoryModelAdmin[StorageTarget]):
    """One row per store."""

    class Media(OurMedia):
        pass

    form = TargetForm
    list_display = ("name_shown", "where_shown", "state_shown", "space_shown", "sets_shown", "checked_shown")
    list_display_links = ("name_shown",)
    list_filter = ("kind",)
    search_fields = ("name", "path", "bucket", "endpoint_url")
    ordering = ("name",)
    radio_fields = {"kind": admin.VERTICAL}  # noqa: RUF012  (Django's own style)
    readonly_fields = ("state_shown", "space_shown", "checked_shown", "orphans_shown", "secret_shown")
    empty_state = "A target is where sets are kept: a directory of this machine, or a bucket. Add the first one."
    actions_row = ("test",)
    actions_detail = ("test",)
    #: Shown by the kind that is chosen (the theme's conditional fields).
    conditional_fields = {  # noqa: RUF012
        "path": "kind == 'local'",
        **dict.fromkeys((*_S3_ONLY, "secret"), "kind == 's3'"),
    }

    def get_queryset(self, request: HttpRequest) -> QuerySet[StorageTarget]:
        kept = Q(records__state__in=("committed", "expiring"))
        counted: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .select_related("state")
            .defer("secret_access_key")
            .annotate(set_count=Count("records", filter=kept), set_bytes=Sum("records__stored_bytes", filter=kept))
        )
        return counted

    @display(description="Target", ordering="name")
    def name_shown(self, target: StorageTarget) -> str:
        return target.name

    @display(description="Where")
    def where_shown(self, target: StorageTarget) -> SafeString:
        if target.kind == StorageTarget.Kind.LOCAL:
            return format_html("{}{}", target.path, small("local directory"))
        place = "/".join(part for part in (target.bucket, target.prefix) if part)
        return format_html("{}{}", place, small(f"S3 at {target.endpoint_url or 'AWS'}, {target.region}"))

    @display(description="State")
    def state_shown(self, target: StorageTarget) -> SafeString:
        state = _state(target)
        if state is None:
            return badge("Not asked yet", "muted", "help")
        if not state.reachable:
            return format_html("{}{}", badge("Not reachable", "bad"), small(state.message))
        if (share := free_share(state)) is not None and share < LEAST_FREE_SHARE:
            return badge("Nearly full", "warn")
        if state.orphan_sets or state.missing_sets or state.stale_uploads:
            return badge("Look at this", "warn")
        return badge("OK", "ok")

    @display(description="Free space")
    def space_shown(self, target: StorageTarget) -> SafeString | str:
        state = _state(target)
        if state is None or state.free_bytes is None or not state.total_bytes:
            return "–"
        share = f"{state.free_bytes / state.total_bytes:.0%} of {human_bytes(state.total_bytes)}"
        return format_html("{}{}", human_bytes(state.free_bytes), small(share))

    @display(description="Sets", ordering="set_count")
    def sets_shown(self, target: Any) -> SafeString:
        return format_html("{}{}", target.set_count, small(human_bytes(target.set_bytes or 0)))

    @display(description="Last asked", ordering="state__checked_at")
    def checked_shown(self, target: StorageTarget) -> SafeString:
        state = _state(target)
        return since(state.checked_at if state else None)

    @display(description="What does not match")
    def orphans_shown(self, target: StorageTarget) -> str:
        state = _state(target)
        if state is None:
            return "not looked at yet"
        return (
            f"{state.orphan_sets} sets without a record, {state.missing_sets} records without their set, "
            f"{state.stale_uploads} unfinished uploads"
        )

    @display(description="Secret access key")
    def secret_shown(self, target: StorageTarget) -> str:
        return {True: "set", False: "not set", None: "set, but not readable with this key"}[has_secret(target)]

    def get_fieldsets(self, request: HttpRequest, obj: StorageTarget | None = None) -> Any:
        may_change = self.has_change_permission(request, obj) if obj else True
        sets = [
            (None, {"fields": ["name", "kind"]}),
            ("Where", {"fields": ["path", *_S3_ONLY, "secret" if may_change else "secret_shown"]}),
        ]
        if obj is not None:
            sets.insert(
                0, ("As last asked", {"fields": ["state_shown", "space_shown", "orphans_shown", "checked_shown"]})
            )
        return sets

    # --- actions

    def has_test_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "test_storagetarget")

    @action(
        permission="test",
        description="Test",
        icon="network_check",
        url_path="test",
        dialog=Dialog("Test the target", "A small object is written, read back, listed and deleted.", submit="Test"),
    )
    def test(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            raise Refused("This target is gone.", remedy="Load the list again.")
        return tested(request, ask_target(row))


def ask_target(row: StorageTarget) -> list[Finding]:
    """Ask it now; what it says is noted for the list."""
    try:
        state = check_target(row, clock.now())
    except ZantaraError as problem:
        return [Finding("fail", str(problem))]
    if not state.reachable:
        return [Finding("fail", state.message)]
    findings = [Finding("pass", "A small object was written, read back, listed and deleted.")]
    if state.free_bytes is not None and state.total_bytes:
        share = state.free_bytes / state.total_bytes
        text = f"{human_bytes(state.free_bytes)} of {human_bytes(state.total_bytes)} are free ({share:.0%})."
        findings.append(Finding("pass" if share >= LEAST_FREE_SHARE else "warn", text))
    for count, what in (
        (state.orphan_sets, "committed sets have no record (`manage.py backup rebuild-catalogue` makes them)"),
        (state.missing_sets, "records have no set in the store"),
        (state.stale_uploads, "uploads were begun and never finished"),
    ):
        if count:
            findings.append(Finding("warn", f"{count} {what}."))
    return findings


def free_share(state: TargetState) -> float | None:
    """Free of total; None where the store has no such thing."""
    if state.free_bytes is None or not state.total_bytes:
        return None
    return state.free_bytes / state.total_bytes


def _state(target: StorageTarget) -> TargetState | None:
    return getattr(target, "state", None)
