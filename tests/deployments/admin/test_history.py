"""The history of deployments: what each row says, filters, the way back, and no query more for twenty rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from controlplane.kernel import clock
from deployments.admin.words import DEPLOYMENT_STATES, MEANS
from deployments.machines import DEPLOYMENT
from deployments.models import Deployment, Service
from tests.deployments import factories

from .pages import HISTORY, change, messages_of, press, row_of, text_of

pytestmark = pytest.mark.django_db

QUERIES_OF_THE_LIST = 6


@pytest.fixture
def shop() -> Service:
    return factories.make_service()


def test_every_state_has_words_and_an_icon_of_its_own_and_a_sentence() -> None:
    assert set(DEPLOYMENT_STATES) == set(MEANS) == set(DEPLOYMENT.moves)
    assert len({text for text, _, _ in DEPLOYMENT_STATES.values()}) == len(DEPLOYMENT_STATES)


def test_a_row_says_what_was_deployed_by_whom_how_it_ended_and_why(admin: Client, shop: Service) -> None:
    old, new = factories.make_release(shop, "41"), factories.make_release(shop, "42")
    at = clock.now() - timedelta(hours=3)
    factories.make_deployment(shop, old, state="succeeded", at=at)
    bad = factories.make_deployment(
        shop, new, state="rolled_back", from_release=old, error="24 of 480 requests failed.", trigger="api"
    )
    page = admin.get(HISTORY)
    assert "through the API, olga shop 42 in place of 41 Rolled back 24 of 480 requests failed." in row_of(
        page, bad.name
    )
    good = row_of(page, f"deploy-{int(at.timestamp() * 1000)}")
    assert "shop 41 the first Succeeded 100 % 3 h ago 2 min 59 s Roll back to this" in good


def test_a_share_that_is_not_what_was_asked_for_is_said(admin: Client, shop: Service) -> None:
    row = factories.make_deployment(shop, factories.make_release(shop), requested_permille=500, effective_permille=100)
    assert "50 % really 10 %" in row_of(admin.get(HISTORY), row.name)


@pytest.mark.parametrize(("asked", "found"), [("open", 2), ("baking", 1), ("succeeded", 1), ("nonsense", 3)])
def test_the_history_is_filtered_by_state_in_its_own_words(
    admin: Client, shop: Service, asked: str, found: int
) -> None:
    release = factories.make_release(shop)
    for state in ("baking", "waiting", "succeeded"):
        factories.make_deployment(shop, release, state=state)
    assert len(admin.get(f"{HISTORY}?state={asked}").context["cl"].result_list) == found


def test_the_list_costs_the_same_queries_for_one_row_and_for_twenty(
    admin: Client, shop: Service, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    release = factories.make_release(shop)
    factories.make_deployment(shop, release, state="succeeded")
    admin.get(HISTORY)
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        admin.get(HISTORY)
    for number in range(19):
        factories.make_deployment(
            shop, factories.make_release(shop, f"x{number}"), state="failed", from_release=release
        )
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        assert admin.get(HISTORY).status_code == 200


def test_an_empty_history_says_how_the_first_is_made(admin: Client) -> None:
    assert "Nothing was deployed yet. Open a service and choose “Deploy”" in text_of(admin.get(HISTORY))


# --- the way back ----------------------------------------------------------------------------------


def test_rolling_back_to_a_succeeded_one_asks_for_its_release_at_once_with_a_reason(
    operator: Client, shop: Service
) -> None:
    old, new = factories.make_release(shop, "41"), factories.make_release(shop, "42")
    row = factories.make_deployment(shop, old, state="succeeded")
    factories.make_deployment(shop, new, state="succeeded", from_release=old)
    factories.serve(shop, new)
    assert "This field is required." in text_of(press(operator, "back_to", row.pk, reason=" "))
    assert Deployment.objects.count() == 2
    answer = press(operator, "back_to", row.pk, reason="the basket is empty")
    made = Deployment.objects.latest("pk")
    assert answer["HX-Redirect"] == change("deployment", made.pk)
    assert (made.release, made.trigger, made.skips_pipeline, made.requested_by, made.reason) == (
        old, "rollback", True, "a-operator", "the basket is empty",
    )  # fmt: skip
    assert made.stages == [{"permille": 1000, "bake_seconds": 0}]


def test_there_is_no_way_back_to_what_did_not_succeed(operator: Client, shop: Service) -> None:
    row = factories.make_deployment(shop, factories.make_release(shop), state="rolled_back")
    assert "Roll back to this" not in row_of(operator.get(HISTORY), row.name)
    press(operator, "back_to", row.pk, reason="r")
    assert Deployment.objects.count() == 1
    assert messages_of(operator) == ["shop 1.0 never served everybody. Deploy it, so that it is checked and watched."]


def test_whoever_may_not_roll_back_is_not_offered_it(viewer: Client, shop: Service) -> None:
    row = factories.make_deployment(shop, factories.make_release(shop), state="succeeded")
    assert "Roll back to this" not in row_of(viewer.get(HISTORY), row.name)
    assert press(viewer, "back_to", row.pk, reason="r").status_code == 403
    assert Deployment.objects.count() == 1
