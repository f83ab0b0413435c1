"""Releases, the start page's card, the sidebar, the step of the setup, and the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from controlplane.kernel.registry import setup_steps
from deployments.admin import card
from deployments.admin.words import DEPLOYMENT_STATES
from deployments.engine import requests
from deployments.machines import DEPLOYMENT
from deployments.models import Command, LineStop, Release, Service
from tests.console.people import person, signed_in
from tests.deployments import factories

from .pages import HISTORY, RELEASES, change, messages_of, press, row_of, text_of

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).parents[3]
QUERIES_OF_THE_LIST = 6


@pytest.fixture
def shop() -> Service:
    return factories.make_service()


# --- releases --------------------------------------------------------------------------------------


def test_a_release_is_added_once_and_never_changed(admin: Client, shop: Service) -> None:
    typed = {
        "service": shop.pk, "version": "43", "source_kind": "git", "source": "https://git.example/shop.git",
        "ref": "v43", "notes": "the new basket",
    }  # fmt: skip
    assert admin.post(f"{RELEASES}add/", typed).status_code == 302
    release = Release.objects.get()
    assert (release.version, release.ref, release.created_by, release.digest) == ("43", "v43", "root", "")
    assert release.created_at is not None
    again = admin.post(f"{RELEASES}add/", typed)
    assert "already exists" in text_of(again)
    assert admin.post(change("release", release.pk), {**typed, "version": "44"}).status_code == 403
    assert admin.post(f"{RELEASES}{release.pk}/delete/", {"post": "yes"}).status_code == 403
    release.refresh_from_db()
    assert (release.version, Release.objects.count()) == ("43", 1)


@pytest.mark.parametrize(
    ("columns", "said"),
    [({"version": "4 3"}, "Letters, digits"), ({"source_kind": "directory"}, "Only a git repository has a ref."),
     ({"source": ""}, "This field is required.")],
)  # fmt: skip
def test_what_is_no_release_is_said_at_its_field(
    admin: Client, shop: Service, columns: dict[str, str], said: str
) -> None:
    typed = {"service": shop.pk, "version": "43", "source_kind": "git", "source": "x.git", "ref": "v43", **columns}
    assert said in text_of(admin.post(f"{RELEASES}add/", typed))
    assert Release.objects.count() == 0


def test_the_list_says_what_each_is_and_where_it_serves(viewer: Client, shop: Service) -> None:
    old, new = factories.make_release(shop, "41"), factories.make_release(shop, "42", digest="", forward_only=True)
    factories.serve(shop, old)
    page = viewer.get(RELEASES)
    assert "shop sha256:3431" in row_of(page, "41")
    assert "/srv/shop/41 local directory 100 % of the traffic" in row_of(page, "41")
    assert "Forward-only shop not fetched yet" in row_of(page, "42")
    assert "by olga" in row_of(page, "42")
    shown = text_of(viewer.get(change("release", new.pk)))
    assert "found out when it is fetched for the first time" in shown
    assert old.digest in text_of(viewer.get(change("release", old.pk)))


def test_the_list_costs_the_same_queries_for_one_release_and_for_twenty(
    admin: Client, shop: Service, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    factories.serve(shop, factories.make_release(shop))
    admin.get(RELEASES)
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        admin.get(RELEASES)
    for number in range(19):
        factories.make_release(factories.make_service(f"s{number}"), f"1.{number}")
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        assert admin.get(RELEASES).status_code == 200


def test_the_way_back_is_offered_for_what_has_served_everybody(operator: Client, shop: Service) -> None:
    good, never = factories.make_release(shop, "41"), factories.make_release(shop, "42")
    factories.make_deployment(shop, good, state="succeeded")
    titles = {
        pk: [one["title"] for one in operator.get(change("release", pk)).context["actions_detail"]]
        for pk in (good.pk, never.pk)
    }
    assert titles == {good.pk: ["Deploy this", "Roll back to this"], never.pk: ["Deploy this"]}
    press(operator, "back_to", never.pk, model="release", reason="r")
    assert messages_of(operator) == ["shop 42 never served everybody. Deploy it, so that it is checked and watched."]


def test_an_empty_list_of_releases_says_what_one_is(admin: Client) -> None:
    assert "A release is one version of a service" in text_of(admin.get(RELEASES))


# --- the start page --------------------------------------------------------------------------------


def test_the_card_says_what_goes_on_who_is_short_of_instances_and_how_the_last_one_ended(
    viewer: Client, shop: Service
) -> None:
    old, new = factories.make_release(shop, "41"), factories.make_release(shop, "42")
    factories.serve(shop, old, count=1)
    factories.make_deployment(shop, old, state="rolled_back", error="24 of 480 requests failed.")
    factories.make_deployment(shop, new)
    page = text_of(viewer.get("/admin/"))
    section = page[page.index("Deployments shop: 1 of 2 healthy") :]
    assert "shop 42 10 % of the traffic Watching" in section
    assert "Last ended shop 41 Rolled back" in section
    assert "24 of 480 requests failed." in section
    LineStop(pk=1, stopped=True, reason="freeze").save()
    assert "The line is stopped: freeze" in str(card.deployments_now()["wrong"][0]["badge"])


def test_the_card_costs_four_queries_however_many_services_there_are(
    shop: Service, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(4):
        card.deployments_now()
    for number in range(8):
        service = factories.make_service(f"s{number}")
        factories.make_deployment(service, factories.make_release(service), state="succeeded")
    with django_assert_num_queries(4):
        assert len(card.deployments_now()["wrong"]) == 9


def test_a_service_that_is_off_or_wants_no_instance_is_short_of_none(shop: Service) -> None:
    shop.enabled = False
    shop.save()
    factories.make_service("none", instances=0)
    assert card.deployments_now()["wrong"] == []


def test_without_anything_the_card_says_so(admin: Client) -> None:
    assert "Nothing was deployed yet. To the services" in text_of(admin.get("/admin/"))


def test_the_step_of_the_setup_is_done_by_a_deployment_that_somebody_asked_for(shop: Service) -> None:
    step, release = setup_steps.get("deployments.first"), factories.make_release(shop)
    factories.make_deployment(shop, release, state="succeeded", trigger="first")
    factories.make_deployment(shop, release, state="failed")
    assert (step.is_done(), step.url()) == (False, "/admin/deployments/service/")
    factories.make_deployment(shop, release, state="succeeded")
    assert step.is_done()


@pytest.mark.parametrize("group", ["Viewer", "Operator", "Administrator", ""])
def test_the_sidebar_shows_the_room_to_whoever_may_look(redis_url: str, group: str) -> None:
    page = signed_in(person(group)).get("/admin/")
    lines = [entry for entry in page.context["sidebar_navigation"] if entry["title"] == "Deployments"]
    titles = [item["title"] for entry in lines for item in entry["items"]]
    assert titles == (["Services", "Deployments", "Releases"] if group else [])


# --- the documentation -----------------------------------------------------------------------------


def states_in_the_documentation() -> dict[str, tuple[str, set[str]]]:
    """State -> its name on the page, and what the page of the documentation says that a person can do."""
    text = (ROOT / "docs" / "deployments.md").read_text()
    section = text.split("## What each state means")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \| ([^|]+) \|$", section, re.MULTILINE)
    return {state: (name.strip(), {one.strip() for one in acts.split(",")} - {"–"}) for state, name, acts in rows}


def test_the_table_of_states_is_complete_and_says_what_can_be_asked_in_each() -> None:
    told = states_in_the_documentation()
    assert set(told) == set(DEPLOYMENT.moves)
    assert {state: name for state, (name, _) in told.items()} == {
        state: words[0] for state, words in DEPLOYMENT_STATES.items()
    }
    possible = {
        state: {str(kind).replace("_", " ") for kind in Command.Kind.values if state in requests._STEERABLE[kind]}
        for state in DEPLOYMENT.moves
    }
    assert {state: acts for state, (_, acts) in told.items()} == possible


def test_every_link_to_the_documentation_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "deployments.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    sources = "\n".join(path.read_text() for path in (ROOT / "deployments" / "admin").glob("*.py"))
    used = set(re.findall(r'docs_link\("([^"]+)"\)', sources))
    assert used
    assert used - anchors == set()


def test_no_secret_of_any_service_is_on_any_page(admin: Client, shop: Service) -> None:
    shop.secret_environ = {"DB_PASSWORD": "hunter2"}
    shop.save()
    release = factories.make_release(shop)
    (instance, _) = factories.serve(shop, release)
    deployment = factories.make_deployment(shop, release)
    for path in (
        "service/", "deployment/", "release/", f"service/{shop.pk}/change/", f"service/{shop.pk}/history/",
        f"service/{shop.pk}/preview/", f"service/{shop.pk}/instances/{instance.pk}/log/",
        f"deployment/{deployment.pk}/change/", f"deployment/{deployment.pk}/live/", f"release/{release.pk}/change/",
    ):  # fmt: skip
        page = admin.get(f"/admin/deployments/{path}")
        assert page.status_code == 200, path
        assert b"hunter2" not in page.content, path


@pytest.mark.parametrize("path", ["", "add/", "1/change/"])
def test_nobody_without_the_right_sees_deployments(redis_url: str, shop: Service, path: str) -> None:
    deployment = factories.make_deployment(shop, factories.make_release(shop))
    client = signed_in(person(""))
    for base in (HISTORY, RELEASES, "/admin/deployments/service/"):
        answer = client.get(base + path.replace("1", str(deployment.pk)))
        assert answer.status_code == 403
        assert deployment.name not in answer.content.decode()
