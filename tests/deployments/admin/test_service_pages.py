"""Services as the admin shows them: the list, the page of one, its instances' logs, and what a deployment would do."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from controlplane.kernel import clock
from deployments.models import Instance
from deployments.targets import targets
from tests.console.people import person, signed_in
from tests.deployments import factories

from .pages import SERVICES, change, part, row_of, text_of

pytestmark = pytest.mark.django_db

QUERIES_OF_THE_LIST = 9


def test_the_list_says_what_serves_how_many_are_healthy_and_what_goes_on(viewer: Client) -> None:
    shop = factories.make_service("shop", instances=2)
    old, new = factories.make_release(shop, "41"), factories.make_release(shop, "42")
    factories.make_deployment(shop, old, state="succeeded")
    factories.serve(shop, old, count=2)
    Instance.objects.filter(slot=1).update(ready_since=None)
    shop.state.refresh_from_db()
    shop.state.split = {"41": 900, "42": 100}
    shop.state.save()
    factories.make_deployment(shop, new)
    blog = factories.make_service("blog", instances=1)
    factories.serve(blog, factories.make_release(blog, "7"))
    factories.make_service("new", instances=1, enabled=False)
    page = viewer.get(SERVICES)
    assert "41 90 % 42 10 % 1 of 2 Watching 42 4 min ago Succeeded 41" in row_of(page, "shop")
    assert "7 1 of 1 Steady none yet" in row_of(page, "blog")
    assert "nothing yet 0 of 1 Off none yet" in row_of(page, "new")


def test_the_list_costs_the_same_queries_for_one_service_and_for_ten(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    def one(name: str) -> None:
        service = factories.make_service(name)
        release = factories.make_release(service)
        factories.serve(service, release)
        factories.make_deployment(service, release, state="succeeded")
        factories.make_deployment(service, factories.make_release(service, "2"))

    one("shop")
    admin.get(SERVICES)
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        admin.get(SERVICES)
    for number in range(9):
        one(f"more-{number}")
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        assert admin.get(SERVICES).status_code == 200


def test_the_page_shows_living_instances_with_their_logs_and_the_last_deployments(viewer: Client) -> None:
    shop = factories.make_service()
    release = factories.make_release(shop, "41")
    factories.serve(shop, release)
    factories.make_instance(shop, release, 7, stopped_at=clock.now())
    factories.make_deployment(shop, release, state="succeeded")
    page = viewer.get(change("service", shop.pk))
    table = part(page, r'<table class="zt-table zt-left zt-instances">.*?</table>')
    assert ("shop-41-0 41 Ready" in table, "shop-41-7" in table) == (True, False)
    assert "Instances healthy 2 of 2" in text_of(page)
    first = Instance.objects.get(slot=0)
    assert f'href="{SERVICES}{shop.pk}/instances/{first.pk}/log/"' in page.content.decode()


def test_a_log_is_shown_masked_by_its_target_or_why_there_is_none(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = factories.make_service()
    (instance, _) = factories.serve(shop, factories.make_release(shop, "41"))
    url = f"{SERVICES}{shop.pk}/instances/{instance.pk}/log/"
    assert "Nothing to show. It has said nothing yet, or its log is gone." in text_of(viewer.get(url))
    asked = []

    def tail(seen: Any, settings: Any, **_: Any) -> str:
        asked.append((seen.name, seen.release, seen.slot, seen.handle, settings))
        return "ready <to> serve\n"

    monkeypatch.setattr(targets.get("process"), "log_tail", tail, raising=False)
    page = viewer.get(url)
    assert "ready &lt;to&gt; serve" in page.content.decode()
    assert asked == [("shop-41-0", "41", 0, {"pid": 4000, "started": 1}, shop.target_settings)]
    assert viewer.get(f"{SERVICES}999/instances/{instance.pk}/log/").status_code == 404
    assert signed_in(person("")).get(url).status_code == 403


def test_a_target_that_does_not_answer_is_said_where_the_log_would_be(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.errors import TargetUnavailable

    def away(*_: Any, **__: Any) -> str:
        raise TargetUnavailable("The engine does not answer.", remedy="Start it.")

    shop = factories.make_service()
    (instance, _) = factories.serve(shop, factories.make_release(shop, "41"))
    monkeypatch.setattr(targets.get("process"), "log_tail", away, raising=False)
    shown = text_of(viewer.get(f"{SERVICES}{shop.pk}/instances/{instance.pk}/log/"))
    assert "The engine does not answer. Start it." in shown


def test_an_empty_list_says_what_a_service_is(admin: Client) -> None:
    assert "A service is a thing that is deployed" in text_of(admin.get(SERVICES))


# --- what would happen -----------------------------------------------------------------------------


def test_the_preview_shows_exposure_capacity_steps_backup_and_the_way_back(viewer: Client) -> None:
    shop = factories.make_service(instances=3)
    factories.make_steps(shop)
    old = factories.make_release(shop, "41")
    factories.make_release(shop, "42")
    factories.serve(shop, old)
    shown = text_of(viewer.get(f"{SERVICES}{shop.pk}/preview/"))
    assert "42 would take the place of 41." in shown
    assert "10 % 10 % 5 min 1 3 One more instance than the share needs" in shown
    assert "50 % 50 % 10 min 2 3" in shown
    assert "100 % 100 % not watched 3 3" in shown
    assert "It takes 15 min at least, pipeline and backup aside. At most 6 instances" in shown
    assert "Check Types stops the deployment, at most 10 min mypy ." in shown
    assert "If it is bad, everybody is back on 41 within seconds" in shown
    assert "Nothing speaks against asking for it now." in shown


def test_the_preview_says_what_stands_in_the_way(viewer: Client) -> None:
    from deployments.models import LineStop

    shop = factories.make_service(stages=(), edge_port=None, instances=1)
    release = factories.make_release(shop, "41", forward_only=True)
    factories.serve(shop, release)
    LineStop(pk=1, stopped=True, reason="freeze").save()
    active = factories.make_deployment(shop, factories.make_release(shop, "42"))
    shown = text_of(viewer.get(f"{SERVICES}{shop.pk}/preview/?release={release.pk}"))
    assert "It would be refused: the line is stopped (freeze)." in shown
    assert "It would be refused: 41 serves everybody already." in shown
    assert "It would be refused: The plan has no stage. Add one of 100 %." in shown
    assert f"It would wait for {active.name}, which is active." in shown
    assert "Without an edge nothing divides the traffic: it gets all at once." in shown
    assert "The release is forward-only: a bad one is held as ROLLBACK_BLOCKED" in shown


def test_the_preview_of_a_service_without_releases_and_of_none(viewer: Client, admin: Client) -> None:
    shop = factories.make_service()
    assert "There is no release yet that could have the rest" in text_of(viewer.get(f"{SERVICES}{shop.pk}/preview/"))
    assert admin.get(f"{SERVICES}999/preview/").status_code == 404
    assert signed_in(person("")).get(f"{SERVICES}{shop.pk}/preview/").status_code == 403
