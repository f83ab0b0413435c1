"""The admin's base classes: the look and the habits that all our pages share.

This is the only module that imports the theme (django-unfold), so that a change of the theme, or of its
version, is a change here. An app writes its admin with what this module offers and knows no theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar
from urllib.parse import urlencode, urlsplit

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import ModelAdmin as _ThemeModelAdmin
from unfold.admin import StackedInline as _ThemeStackedInline
from unfold.admin import TabularInline as _ThemeTabularInline
from unfold.dataclasses import SearchResult
from unfold.decorators import action as _theme_action
from unfold.decorators import display as _theme_display
from unfold.enums import ActionVariant
from unfold.forms import AdminPasswordChangeForm, BaseDialogForm, UserChangeForm, UserCreationForm
from unfold.sites import UnfoldAdminSite
from unfold.views import ChangeList as _ThemeChangeList
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminEmailInputWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from controlplane.kernel.errors import ConfigurationError, ZantaraError
from controlplane.kernel.registry import Registry

from .appearance import unfold_settings
from .formats import Tone, badge, human_bytes, human_seconds, rate_text, relative_text, since, with_code
from .history import HistoryMixin
from .navigation import NavigationItem, add_navigation, may_open, navigation_items, visible_items

__all__ = [
    "AdminPasswordChangeForm",
    "ConsolePage",
    "Dialog",
    "DialogForm",
    "HistoryModelAdmin",
    "NavigationItem",
    "OpsAdminSite",
    "OpsModelAdmin",
    "OpsStackedInline",
    "OpsTabularInline",
    "Tone",
    "UserChangeForm",
    "UserCreationForm",
    "action",
    "add_navigation",
    "ask_again",
    "badge",
    "display",
    "human_bytes",
    "human_seconds",
    "may_open",
    "navigation_items",
    "pages",
    "rate_text",
    "relative_text",
    "since",
    "theme_widget",
    "unfold_settings",
    "with_code",
]

M = TypeVar("M", bound=Model)
Parent = TypeVar("Parent", bound=Model)

if TYPE_CHECKING:
    _OpsBase = admin.ModelAdmin
    _TabularBase = admin.TabularInline
    _StackedBase = admin.StackedInline
    _DialogBase = forms.Form
    _SiteBase = admin.AdminSite
    _ChangeListBase = ChangeList
else:
    # The theme's classes take no type argument at run time; Generic gives them one.
    class _OpsBase(_ThemeModelAdmin, Generic[M]):
        pass

    class _TabularBase(_ThemeTabularInline, Generic[M, Parent]):
        pass

    class _StackedBase(_ThemeStackedInline, Generic[M, Parent]):
        pass

    _DialogBase = BaseDialogForm
    _SiteBase = UnfoldAdminSite
    _ChangeListBase = _ThemeChangeList


class OpsChangeList(_ChangeListBase):
    """Says "n results" only where a search or filter has narrowed the list."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.query and not self.has_active_filters:
            self.full_result_count = self.result_count


class OpsModelAdmin(_OpsBase[M]):
    """A list and a form in our look.

    ``empty_state`` is what an empty list says: what the rows are for, and the next step. It is shown
    instead of "no results" only where no search and no filter is set.
    """

    empty_state: ClassVar[str] = ""
    # A full count of a large table on each view of a filtered list is a scan for a number nobody reads.
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 500
    list_fullwidth: ClassVar[bool] = True
    list_filter_submit: ClassVar[bool] = False
    list_before_template: ClassVar[str | None] = None
    list_after_template: ClassVar[str | None] = None
    change_form_before_template: ClassVar[str | None] = None
    change_form_after_template: ClassVar[str | None] = None
    warn_unsaved_form: ClassVar[bool] = True
    compressed_fields: ClassVar[bool] = True
    #: Names of methods made with :func:`action`: above the list, per row, above the form.
    actions_list: Sequence[str | dict[str, Any]] = ()
    actions_row: Sequence[str] = ()
    actions_detail: Sequence[str | dict[str, Any]] = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return OpsChangeList


class OpsTabularInline(_TabularBase[M, Parent]):
    """Rows of a related model as a table below the form."""

    extra = 0


class OpsStackedInline(_StackedBase[M, Parent]):
    """Rows of a related model as forms below the form."""

    extra = 0


class HistoryModelAdmin(HistoryMixin, OpsModelAdmin[M]):
    """For rows that an operator tunes: the history page shows who changed what, and reverts with one click."""


# --- dialogs and actions -----------------------------------------------------------------------

_WIDGETS: tuple[tuple[type[forms.Widget], type[Any]], ...] = (
    (forms.HiddenInput, forms.HiddenInput),
    (forms.PasswordInput, UnfoldAdminPasswordWidget),
    (forms.EmailInput, UnfoldAdminEmailInputWidget),
    (forms.Textarea, UnfoldAdminTextareaWidget),
    (forms.RadioSelect, UnfoldAdminRadioSelectWidget),
    (forms.CheckboxSelectMultiple, UnfoldAdminCheckboxSelectMultipleWidget),
    (forms.SelectMultiple, UnfoldAdminSelectMultipleWidget),
    (forms.Select, UnfoldAdminSelectWidget),
    (forms.CheckboxInput, UnfoldBooleanSwitchWidget),
    (forms.TextInput, UnfoldAdminTextInputWidget),
)


def theme_widget(field: forms.Field) -> None:
    """Put the theme's widget in the place of Django's on this field; others are left alone."""
    if type(field.widget).__module__ != "django.forms.widgets":
        return
    old = field.widget
    if isinstance(old, forms.NumberInput):
        whole = isinstance(field, forms.IntegerField) and not isinstance(field, forms.FloatField | forms.DecimalField)
        new: Any = UnfoldAdminIntegerFieldWidget if whole else UnfoldAdminDecimalFieldWidget
    else:
        new = next((theme for plain, theme in _WIDGETS if type(old) is plain), None)
    if new is None or new is type(old):
        return
    attrs = {name: value for name, value in old.attrs.items() if name != "class"}
    widget = new(attrs=attrs, choices=old.choices) if isinstance(old, forms.widgets.ChoiceWidget) else new(attrs=attrs)
    widget.is_required, widget.is_localized = old.is_required, old.is_localized
    field.widget = widget


class DialogForm(_DialogBase):
    """The form of a dialog. Its fields are dressed in the theme's widgets by themselves.

    ``self.request`` and ``self.object_id`` (of the row, ``None`` for actions of the list) may be used in ``clean``.
    """

    request: HttpRequest
    object_id: int | str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            theme_widget(field)


@dataclass(frozen=True)
class Dialog:
    """What an action asks before it acts: a title, a sentence, and a form (by default only a button)."""

    title: str
    description: str = ""
    form: type[DialogForm] = DialogForm
    submit: str = "Do it"


Variant = Literal["default", "primary", "success", "info", "warning", "danger"]


def action(
    *,
    permission: str,
    description: str,
    icon: str | None = None,
    variant: Variant = "default",
    dialog: Dialog | None = None,
    url_path: str | None = None,
    navigates: bool = False,
) -> Callable[[Callable[..., HttpResponse | None]], Any]:
    """A button of a list, a row or a form, with its own permission: ``x`` asks ``has_x_permission`` of the class.

    ``app.codename`` is refused: the theme looks such a name up in the database while system checks run, and those
    run before there is a database.

    With a ``dialog`` the function is called as ``f(self, request, form, object_id=…)`` once the form is
    valid (``object_id`` for rows and forms only). It may answer nothing: the page that showed the button
    is loaded again; or a redirect. A :class:`ZantaraError` it raises is shown as a message.
    Without a dialog such a button is a link, and a link must change nothing: ``navigates=True`` says so.
    An action of Django's own list (``actions = [...]``, a queryset) needs neither; it comes by POST.
    """
    if dialog is not None and navigates:
        raise ConfigurationError("An action either asks in a dialog or navigates.")
    if "." in permission:
        raise ConfigurationError(
            f"An action's permission is a bare name, not {permission}.", remedy="Define has_…_permission on the class."
        )

    def decorate(function: Callable[..., HttpResponse | None]) -> Any:
        @wraps(function)
        def guarded(model_admin: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse | None:
            if request.method != "POST" and not navigates:
                return HttpResponseNotAllowed(["POST"])
            try:
                answer = function(model_admin, request, *args, **kwargs)
            except ZantaraError as refused:
                messages.error(request, str(refused))
                answer = None
            return answer if dialog is None else _leave_dialog(request, answer)

        return _theme_action(
            permissions=[permission],
            description=description,
            url_path=url_path,
            icon=icon,
            variant=ActionVariant(variant),
            dialog=None
            if dialog is None
            else {
                "title": dialog.title,
                "description": dialog.description,
                "form_class": dialog.form,
                "form_submit_text": dialog.submit,
            },
        )(guarded)

    return decorate


def ask_again(request: HttpRequest, form: DialogForm, problem: ZantaraError, field: str) -> HttpResponse:
    """For an action's answer: its dialog again with all that was typed, and at ``field`` why it was refused."""
    form.add_error(field, str(problem))
    return TemplateResponse(request, "unfold/helpers/dialog.html", {"form": form})


def _leave_dialog(request: HttpRequest, answer: HttpResponse | None) -> HttpResponse:
    """A dialog is posted by htmx: it follows HX-Redirect, where a plain redirect would be swapped into the dialog."""
    if isinstance(answer, HttpResponseRedirect):
        return HttpResponse(headers={"HX-Redirect": answer.url})
    return answer if answer is not None else HttpResponse(headers={"HX-Refresh": "true"})


def display(
    *,
    description: str | None = None,
    ordering: str | None = None,
    boolean: bool | None = None,
    empty_value: str | None = None,
    label: bool | dict[str, str] | None = None,
    header: bool | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """A column or read-only field made by a method; see Django's ``admin.display``.

    ``label`` shows the value as a label; for states use :func:`badge`, which has an icon too.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return _theme_display(
            function,
            description=description,
            ordering=ordering,
            boolean=boolean,
            empty_value=empty_value,
            label=label,
            header=header,
        )

    return decorate


# --- the site and its own pages ----------------------------------------------------------------


@dataclass(frozen=True)
class ConsolePage:
    """A page under ``/admin/`` that belongs to no model. The view is guarded: staff, and ``permission`` if given."""

    name: str
    route: str
    view: Callable[..., HttpResponseBase]
    permission: str = ""


pages: Registry[ConsolePage] = Registry("console page")


class OpsAdminSite(_SiteBase):
    """The admin with the registered pages. Add a page with ``pages.add`` in ``AppConfig.ready()``."""

    def get_urls(self) -> list[Any]:
        search = path("search/", self.admin_view(self.find), name="search")
        return [search, *(self._page_url(page) for page in pages), *super().get_urls()]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """A part of a page that is asked for after the session ended sends the whole page to the login."""
        here = urlsplit(request.headers.get("HX-Current-URL", "")).path
        if here and not self.has_permission(request):
            target = f"{reverse('admin:login')}?{urlencode({'next': here})}"
            return HttpResponse(headers={"HX-Redirect": target})
        return super().login(request, extra_context)

    def find(self, request: HttpRequest) -> HttpResponse:
        """The command palette: pages by name, then rows of models that can be searched.

        The theme's own keeps results for five minutes in the cache: a new row is not found, and
        nothing at all while Redis is away.
        """
        site: Any = self
        term = request.GET.get("s", "").strip().lower()[:200]
        if not term:
            return HttpResponse()
        apps = self.get_app_list(request)
        results = [
            SearchResult(title=item.title, description=item.group, link=link, icon=item.icon)
            for item, link in visible_items(request)
            if term in item.title.lower()
        ]
        results += site._search_models(request, apps, term)
        page = Paginator(results, 50).get_page(request.GET.get("page"))
        template = "unfold/helpers/command_results.html"
        context = {"page_obj": page.paginator, "results": page, "page_counter": page.start_index() - 1}
        return TemplateResponse(request, template, context, headers={"HX-Trigger": "search"})

    def _page_url(self, page: ConsolePage) -> URLPattern:
        @wraps(page.view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not may_open(request, page.permission):
                raise PermissionDenied
            return page.view(request, *args, **kwargs)

        return path(page.route, self.admin_view(guarded), name=page.name)
