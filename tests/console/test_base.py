"""What an app's admin is made of: lists that say the next step, actions that ask before they act."""

from __future__ import annotations

from typing import Any

import pytest
from django import forms
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.test import Client, RequestFactory, override_settings
from django.urls import path, reverse

from controlplane.console.base import (
    ConsolePage,
    Dialog,
    DialogForm,
    OpsAdminSite,
    OpsModelAdmin,
    action,
    add_navigation,
    navigation_items,
    pages,
    theme_widget,
)
from controlplane.console.navigation import sidebar
from controlplane.kernel.errors import ConfigurationError, Refused
from tests.console.people import person, signed_in

pytestmark = pytest.mark.django_db

done: list[Any] = []


class AskForm(DialogForm):
    why = forms.CharField(label="Why")
    times = forms.IntegerField(min_value=1)
    kind = forms.ChoiceField(choices=[("a", "A"), ("b", "B")])


class ThingAdmin(OpsModelAdmin[Group]):
    empty_state = "Things are <what> you need. Add the first one."
    search_fields = ("name",)
    actions = ("mark",)
    actions_list = ("plain",)
    actions_row = ("ask", "refuse")
    actions_detail = ("look",)

    @action(permission="ask", description="Ask", dialog=Dialog("Really?", "It is gone then.", AskForm))
    def ask(self, request: HttpRequest, form: AskForm, object_id: str) -> HttpResponse | None:
        done.append((form.cleaned_data["why"], form.cleaned_data["times"], object_id))
        return HttpResponseRedirect("/there/") if form.cleaned_data["kind"] == "b" else None

    def has_ask_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return request.user.has_perm("auth.change_group")

    @action(permission="change", description="Refuse", dialog=Dialog("Sure?"))
    def refuse(self, request: HttpRequest, form: DialogForm, object_id: str) -> None:
        raise Refused("It is in use.", remedy="End that first.")

    @action(permission="change", description="Plain")
    def plain(self, request: HttpRequest) -> None:
        done.append("plain")

    @action(permission="view", description="Look", navigates=True)
    def look(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect("/looked/")

    @action(permission="change", description="Mark")
    def mark(self, request: HttpRequest, queryset: Any) -> None:
        done.append(sorted(queryset.values_list("name", flat=True)))


site = OpsAdminSite(name="admin")
site.register(Group, ThingAdmin)
urlpatterns = [path("admin/", site.urls)]


@pytest.fixture(autouse=True)
def own_site() -> Any:
    done.clear()
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def group() -> Group:
    return Group.objects.create(name="thing")


ANSWERS = {"_form_submitted": "True", "why": "because", "times": "2", "kind": "a"}


def url_of(name: str, group: Group) -> str:
    return reverse(f"admin:auth_group_{name}", args=(group.pk,))


def test_a_dialog_asks_first_and_acts_only_on_a_valid_answer(group: Group) -> None:
    client, url = signed_in(person("superuser")), url_of("ask", group)
    page = client.get(url).content.decode()
    assert "Really?" in page
    assert "It is gone then." in page
    assert done == []
    client.post(url, {**ANSWERS, "times": "0"})
    assert done == []
    answer = client.post(url, ANSWERS)
    assert answer["HX-Refresh"] == "true"
    assert done == [("because", 2, str(group.pk))]


def test_a_dialogs_redirect_is_followed_by_the_whole_page(group: Group) -> None:
    answer = signed_in(person("superuser")).post(url_of("ask", group), {**ANSWERS, "kind": "b"})
    assert (answer.status_code, answer["HX-Redirect"]) == (200, "/there/")


def test_an_action_is_refused_to_those_without_its_permission(group: Group) -> None:
    viewer = signed_in(person("Viewer"))
    assert viewer.post(url_of("ask", group), ANSWERS).status_code == 403
    assert done == []
    page = viewer.get(reverse("admin:auth_group_changelist")).content.decode()
    assert "/ask/" not in page
    assert Client().post(url_of("ask", group), ANSWERS).status_code == 302
    assert done == []


def test_an_action_without_the_forms_token_is_refused(group: Group) -> None:
    client = signed_in(person("superuser"))
    client.handler.enforce_csrf_checks = True
    assert client.post(url_of("ask", group), ANSWERS).status_code == 403
    assert done == []


def test_a_named_error_becomes_a_message_with_its_remedy(group: Group) -> None:
    client = signed_in(person("superuser"))
    answer = client.post(url_of("refuse", group), {"_form_submitted": "True"})
    assert answer["HX-Refresh"] == "true"
    assert "It is in use. End that first." in client.get(reverse("admin:auth_group_changelist")).content.decode()


def test_a_link_never_acts_unless_it_only_navigates(group: Group) -> None:
    client = signed_in(person("superuser"))
    assert client.get(reverse("admin:auth_group_plain")).status_code == 405
    assert done == []
    assert client.get(url_of("look", group))["Location"] == "/looked/"
    with pytest.raises(ConfigurationError):
        action(permission="change", description="x", dialog=Dialog("?"), navigates=True)
    with pytest.raises(ConfigurationError):
        action(permission="auth.change_group", description="x")


def test_an_action_of_the_list_gets_the_chosen_rows(group: Group) -> None:
    Group.objects.create(name="other")
    signed_in(person("superuser")).post(
        reverse("admin:auth_group_changelist"), {"action": "mark", "_selected_action": [str(group.pk)]}
    )
    assert done == [["thing"]]


def test_the_fields_of_a_dialog_are_dressed_in_the_theme() -> None:
    form = AskForm(request=None)
    assert {type(field.widget).__name__ for name, field in form.fields.items() if name != "_form_submitted"} == {
        "UnfoldAdminTextInputWidget",
        "UnfoldAdminIntegerFieldWidget",
        "UnfoldAdminSelectWidget",
    }
    assert form.fields["times"].widget.attrs["min"] == 1
    assert 'value="b"' in str(form["kind"])
    own = forms.CharField(widget=type("Own", (forms.TextInput,), {"__module__": "elsewhere"}))
    before = own.widget
    theme_widget(own)
    assert own.widget is before


def test_an_empty_list_says_the_next_step_and_a_search_without_result_something_else() -> None:
    client, url = signed_in(person("superuser")), reverse("admin:auth_group_changelist")
    page = client.get(url).content.decode()
    assert "No groups yet." in page
    assert "Things are &lt;what&gt; you need. Add the first one." in page
    assert "Show all" not in page
    narrowed = client.get(url + "?q=nothing").content.decode()
    assert "Things are" not in narrowed
    assert "Nothing matches." in narrowed


def test_the_count_of_a_list_is_not_taken_twice(group: Group) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = signed_in(person("superuser"))
    with CaptureQueriesContext(connection) as seen:
        client.get(reverse("admin:auth_group_changelist"))
    assert len([q for q in seen if "COUNT(*)" in q["sql"] and "auth_group" in q["sql"]]) == 1


def test_a_page_of_an_app_is_guarded_by_its_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ConsolePage("mine", "mine/", lambda request: HttpResponse("mine"), "auth.view_group|auth.change_group")
    monkeypatch.setattr(pages, "_entries", {"mine": page})
    view = OpsAdminSite(name="admin")._page_url(page).callback

    def ask(user: Any) -> int:
        request = RequestFactory().get("/admin/mine/")
        request.user = user
        try:
            return view(request).status_code
        except PermissionDenied:
            return 403

    assert ask(person("Viewer")) == 200
    assert ask(person("")) == 403
    assert ask(person("Operator", is_staff=False)) == 302


def test_the_sidebar_shows_what_exists_and_may_be_opened(monkeypatch: pytest.MonkeyPatch, rf: Any) -> None:
    monkeypatch.setattr(navigation_items, "_entries", {})
    add_navigation("One", "Groups", "group", "admin:auth_group_changelist", "auth.view_group")
    add_navigation("One", "Start", "home", "admin:index")
    add_navigation("Two", "Gone", "x", "admin:no_such_page")
    request = rf.get("/admin/")
    request.user = person("Viewer")
    assert [(g["title"], [i["title"] for i in g["items"]]) for g in sidebar(request)] == [("One", ["Groups", "Start"])]
    request.user = person("")
    assert [[i["title"] for i in g["items"]] for g in sidebar(request)] == [["Start"]]
