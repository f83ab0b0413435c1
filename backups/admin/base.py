"""What our admin classes have in common."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from django.db.models import Model
from django.http import HttpRequest

from controlplane.console.base import OpsModelAdmin
from controlplane.kernel.errors import Refused

from .access import BackupVerbs

M = TypeVar("M", bound=Model)


class OurMedia:
    css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("backups/backups.css",)}
    js: ClassVar[tuple[str, ...]] = ("backups/backups.js",)


class ViewOnlyAdmin(BackupVerbs, OpsModelAdmin[M]):
    """Rows that the system writes. Whatever is done about one is an action with a permission of its own."""

    class Media(OurMedia):
        pass

    warn_unsaved_form = False
    #: What only the template shows; Django wants at least one field.
    fields: ClassVar[Any] = ("name",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def the_row(self, request: HttpRequest, object_id: str) -> M:
        """The row that an action is about; Refused where it is gone."""
        row = self.get_object(request, object_id)
        if row is None:
            raise Refused("This row is gone.", remedy="Load the list again.")
        return row

    def seen_row(self, request: HttpRequest, object_id: str | None) -> M | None:
        """The same within one request, read once; None where it is gone."""
        cache: dict[str, M | None] = request.__dict__.setdefault("_backups_rows", {})
        key = f"{self.opts.label}:{object_id}"
        if key not in cache:
            cache[key] = self.get_object(request, str(object_id))
        return cache[key]
