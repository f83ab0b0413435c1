"""What our admin classes have in common."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from django.db.models import Model
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import OpsModelAdmin
from controlplane.kernel.errors import Refused

from .access import DeploymentVerbs

M = TypeVar("M", bound=Model)


class OurMedia:
    css: ClassVar[dict[str, tuple[str, ...]]] = {
        "all": ("console/dashboard.css", "backups/backups.css", "deployments/deployments.css")
    }
    js: ClassVar[tuple[str, ...]] = ("deployments/deployments.js",)


class ViewOnlyAdmin(DeploymentVerbs, OpsModelAdmin[M]):
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

    def seen_row(self, request: HttpRequest, object_id: str | None) -> M | None:
        """The row within one request, read once; None where it is gone."""
        cache: dict[str, M | None] = request.__dict__.setdefault("_deployments_rows", {})
        key = f"{self.opts.label}:{object_id}"
        if key not in cache:
            cache[key] = self.get_object(request, str(object_id))
        return cache[key]


def the_row(model_admin: Any, request: HttpRequest, object_id: str) -> Any:
    """The row that an action is about; Refused where it is gone."""
    row = model_admin.get_object(request, object_id)
    if row is None:
        raise Refused("This row is gone.", remedy="Load the list again.")
    return row


def own_urls(model_admin: Any, *routes: tuple[str, Any, str]) -> list[URLPattern]:
    """Addresses beside Django's own: (route, view, name without app and model)."""
    prefix = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}_"
    return [path(route, model_admin.admin_site.admin_view(view), name=prefix + name) for route, view, name in routes]


def dialog_link(address: str, text: str, icon: str, *, css: str = "zt-link") -> SafeString:
    """A link that opens a dialog within the page; without scripts it leads to the dialog as a page of its own."""
    return format_html(
        '<a class="{} zt-dialog-link" href="{}" hx-get="{}" hx-target="#modal-content" hx-select="#dialog" '
        'x-on:htmx:after-on-load="openModal = true">'
        '<span class="material-symbols-outlined" aria-hidden="true">{}</span><span>{}</span></a>',
        css, address, address, icon, text,
    )  # fmt: skip


def who(request: HttpRequest) -> str:
    """The person, as events name him."""
    return request.user.get_username()
