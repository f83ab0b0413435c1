"""History of a configuration row: who changed what, when, and back to how it was with one click."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst
from simple_history.admin import SimpleHistoryAdmin

from controlplane.kernel.errors import ZantaraError

from .formats import since

#: Longer values are cut in the list of changes; the whole value is on the version's own page.
MOST_CHARACTERS_SHOWN = 120


def shown_value(field: models.Field[Any, Any], value: object) -> str:
    """A field's value as a reader says it: the choice's label, yes and no, “empty” for nothing."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_named(part) for part in value) or "empty"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {part}" for name, part in value.items()) or "empty"
    choices = dict(getattr(field, "flatchoices", None) or ())
    text = str(choices.get(value, value))
    return text if len(text) <= MOST_CHARACTERS_SHOWN else f"{text[:MOST_CHARACTERS_SHOWN]}…"


def _named(part: object) -> str:
    """One of several; a row of a many-to-many table (both ends by name) is told by its far end."""
    return str(list(part.values())[-1]) if isinstance(part, dict) and part else str(part)


def shown_changes(field: models.Field[Any, Any], label: str, old: object, new: object) -> list[tuple[str, str, str]]:
    """A change as (label, old, new); of a dictionary one line for each entry that changed."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [(label, shown_value(field, old), shown_value(field, new))]
    return [
        (f"{label}: {name}", shown_value(field, old.get(name)), shown_value(field, new.get(name)))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]


class HistoryMixin(SimpleHistoryAdmin):
    """simple-history's pages with a readable diff per row and a revert that goes through ``Model.save``."""

    #: Fields that change by themselves and say nothing to a reader.
    history_hidden_fields: tuple[str, ...] = ("version", "updated_at")
    history_list_per_page = 50

    def get_urls(self) -> list[URLPattern]:
        opts = self.model._meta
        revert = path(
            "<path:object_id>/history/<int:version_id>/revert/",
            self.admin_site.admin_view(self.revert_view),
            name=f"{opts.app_label}_{opts.model_name}_revert",
        )
        return [revert, *super().get_urls()]

    def set_history_delta_changes(
        self, request: HttpRequest, historical_records: Iterable[Any], foreign_keys_are_objs: bool = True
    ) -> None:
        """Give each record what its line shows: ``changes`` (label, old, new), ``when``, ``is_current``."""
        opts = self.model._meta
        records = list(historical_records)
        first_page = getattr(historical_records, "number", 1) == 1
        columns = self.get_history_list_display(request)
        change_name = f"{self.admin_site.name}:{opts.app_label}_{opts.model_name}_revert"
        for index, record in enumerate(records):
            older = records[index + 1] if index + 1 < len(records) else record.prev_record
            record.changes = []
            record.when = since(record.history_date)
            record.columns = [getattr(record, name, "") for name in columns]
            record.is_current = first_page and index == 0
            record.revert_url = reverse(change_name, args=(getattr(record, opts.pk.attname), record.pk))
            if older is None or record.history_type == "-":
                continue
            for change in record.diff_against(older, foreign_keys_are_objs=foreign_keys_are_objs).changes:
                if change.field in self.history_hidden_fields:
                    continue
                field = opts.get_field(change.field)
                label = capfirst(str(getattr(field, "verbose_name", change.field)))
                record.changes += shown_changes(field, label, change.old, change.new)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        current = self.get_object(request, unquote(object_id))
        may_revert = self.may_revert(request, current)
        context = {"may_revert": may_revert, "row_exists": current is not None, **(extra_context or {})}
        response: HttpResponse = super().history_view(request, object_id, context)
        return response

    def may_revert(self, request: HttpRequest, current: models.Model | None) -> bool:
        """Changing back needs the right to change; bringing a deleted row back needs the right to add."""
        if self.revert_disabled(request, current):
            return False
        return bool(
            self.has_change_permission(request, current) if current is not None else self.has_add_permission(request)
        )

    def history_form_view(
        self, request: HttpRequest, object_id: str, version_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """An old version is for looking at; going back to it is the list's revert, which records why."""
        if request.method == "POST":
            return HttpResponseNotAllowed(["GET"])
        response: HttpResponse = super().history_form_view(request, object_id, version_id, extra_context)
        return response

    def revert_view(self, request: HttpRequest, object_id: str, version_id: int) -> HttpResponse:
        """Save the row as it was in this version; a new history entry says so. POST only."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        pk = unquote(object_id)
        current = self.get_object(request, pk)
        if not self.may_revert(request, current):
            raise PermissionDenied
        manager = getattr(self.model, self.model._meta.simple_history_manager_attribute)
        try:
            record = manager.filter(**{self.model._meta.pk.attname: pk, "history_id": version_id}).first()
        except (ValueError, ValidationError):
            record = None
        if record is None:
            raise Http404
        try:
            self._save_as_it_was(request, record, current)
        except ValidationError as refused:
            messages.error(request, "Not reverted. " + " ".join(refused.messages))
        except ZantaraError as refused:
            messages.error(request, f"Not reverted. {refused}")
        else:
            messages.success(request, f"{record.instance} is as it was at {_moment(record)} again.")
        opts = self.model._meta
        name = f"{self.admin_site.name}:{opts.app_label}_{opts.model_name}_history"
        return HttpResponseRedirect(reverse(name, args=(object_id,)))

    def _save_as_it_was(self, request: HttpRequest, record: Any, current: models.Model | None) -> None:
        row = record.instance
        row._state.adding = current is None
        if current is not None:
            # A version counter goes on counting: it is about the row now, not about what the row says.
            for name in self.history_hidden_fields:
                if hasattr(row, name):
                    setattr(row, name, getattr(current, name))
        reason = f"reverted to {_moment(record)}"
        row._change_reason = reason
        row._history_user = request.user
        row.full_clean()
        with transaction.atomic():
            row.save()
            self.log_change(request, row, reason)


def _moment(record: Any) -> str:
    return f"{record.history_date.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
