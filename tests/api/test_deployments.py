"""Services, releases and deployments: what is answered, and what is done."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.api.models import ApiToken
from controlplane.kernel import clock
from deployments.models import Command, Deployment, DeploymentEvent, Release, Service
from tests.deployments.factories import make_deployment, make_instance, make_release, make_service, make_steps, serve

from .conftest import Program


@pytest.fixture
def shop(db: None) -> Service:
    service = make_service("shop", secret_environ={"PASSWORD": "hunter2"}, environ={"TOKEN": "hunter3"})
    serve(service, make_release(service, "1.0"))
    make_release(service, "2.0")
    return service


def actor() -> str:
    return f"root (token {ApiToken.objects.get().prefix})"


def test_a_deployment_is_asked_for_and_can_be_looked_at(program: Program, shop: Service) -> None:
    answer = program.post("/deployments", {"service": "shop", "version": "2.0", "reason": "new prices"})
    deployment = Deployment.objects.get()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v1/deployments/{deployment.name}")
    assert (deployment.trigger, deployment.requested_by, deployment.reason) == ("api", actor(), "new prices")
    assert not deployment.skips_pipeline
    assert (
        answer.json()
        == program.client.get(answer.headers["Location"], headers={"Authorization": f"Bearer {program.text}"}).json()
    )
    shown = answer.json()
    assert (shown["state"], shown["is_over"], shown["version"]) == ("waiting", False, "2.0")
    assert shown["stages"] == [
        {"percent": 10.0, "bake_seconds": 300, "standing": "ahead"},
        {"percent": 50.0, "bake_seconds": 600, "standing": "ahead"},
        {"percent": 100.0, "bake_seconds": 0, "standing": "ahead"},
    ]
    assert shown["possible_commands"] == ["abort"]


def test_a_new_version_comes_with_its_source(program: Program, shop: Service) -> None:
    body = {"service": "shop", "version": "3.0", "source": "https://git.example.org/shop.git", "ref": "v3"}
    assert program.post("/deployments", body).status_code == 202
    release = Release.objects.get(version="3.0")
    assert (release.source_kind, release.ref, release.created_by) == ("git", "v3", actor())
    clash = program.post("/deployments", {**body, "ref": "v4"})
    assert (clash.status_code, clash.json()["detail"]) == (409, "shop has a release 3.0 with another source.")
    bad = program.post("/deployments", {**body, "version": "../3"})
    assert (bad.status_code, bad.json()["type"]) == (409, "urn:zantara:problem:refused")
    assert (Deployment.objects.count(), Release.objects.count()) == (1, 3)


def test_a_release_is_made_without_being_deployed(program: Program, shop: Service) -> None:
    body = {"version": "3.0", "source": "/srv/3.0", "forward_only": True}
    made = program.post("/services/shop/releases", body)
    again = program.post("/services/shop/releases", body)
    assert (made.status_code, again.status_code) == (201, 201)
    assert made.headers["Location"] == "/api/v1/services/shop/releases/3.0"
    assert program.get("/services/shop/releases/3.0").json() == made.json() == again.json()
    assert (made.json()["source_kind"], made.json()["forward_only"]) == ("directory", True)
    assert (Release.objects.filter(version="3.0").count(), Deployment.objects.count()) == (1, 0)
    assert [one["version"] for one in program.get("/services/shop/releases").json()["items"]] == ["3.0", "2.0", "1.0"]


def test_what_is_unknown_or_refused_does_nothing(program: Program, shop: Service) -> None:
    assert program.post("/deployments", {"service": "mall", "version": "1"}).status_code == 404
    assert program.post("/deployments", {"service": "shop", "version": "1.0"}).status_code == 409
    refused = program.post("/deployments", {"service": "shop", "version": "2.0", "ref": "main"})
    assert refused.json()["remedy"] == "Give its source too."
    assert Deployment.objects.count() == 0


@pytest.mark.parametrize("kind", ["promote", "promote_fully", "pause", "abort", "roll_back"])
def test_a_deployment_is_steered(program: Program, shop: Service, kind: str) -> None:
    deployment = make_deployment(shop, shop.releases.get(version="2.0"), state="baking")
    answer = program.post(f"/deployments/{deployment.name}/commands", {"kind": kind, "reason": "because"})
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v1/deployments/{deployment.name}")
    command = Command.objects.get()
    assert (command.kind, command.actor, command.reason) == (kind, actor(), "because")
    assert (answer.json()["kind"], answer.json()["follower"]) == (kind, None)


def test_retrying_one_that_is_over_leads_to_its_follower(program: Program, shop: Service) -> None:
    old = make_deployment(shop, shop.releases.get(version="2.0"), state="failed")
    answer = program.post(f"/deployments/{old.name}/commands", {"kind": "retry"})
    new = Deployment.objects.exclude(pk=old.pk).get()
    assert answer.headers["Location"] == f"/api/v1/deployments/{new.name}"
    assert (answer.json()["deployment"], answer.json()["follower"]) == (old.name, new.name)


def test_commands_that_make_no_sense_are_refused_with_those_that_do(program: Program, shop: Service) -> None:
    deployment = make_deployment(shop, shop.releases.get(version="2.0"), state="succeeded")
    answer = program.post(f"/deployments/{deployment.name}/commands", {"kind": "pause"})
    assert answer.status_code == 409
    assert answer.json()["remedy"] == "Possible now: roll_back."
    unknown = program.post(f"/deployments/{deployment.name}/commands", {"kind": "explode"})
    assert (unknown.status_code, unknown.json()["errors"][0]["where"]) == (422, "body.kind")
    assert Command.objects.count() == 0


def test_events_are_the_last_first(program: Program, shop: Service) -> None:
    deployment = make_deployment(shop, shop.releases.get(version="2.0"), state="baking")
    events = program.get(f"/deployments/{deployment.name}/events").json()["items"]
    assert len(events) == DeploymentEvent.objects.count()
    assert events[0]["to_state"] == "baking"
    assert events[-1]["to_state"] == "waiting"


def test_lists_are_filtered_and_come_in_pages_that_new_rows_do_not_move(program: Program, shop: Service) -> None:
    now = clock.now()
    names = [
        make_deployment(shop, shop.releases.get(version="1.0"), state="succeeded", at=now - timedelta(hours=9 - n)).name
        for n in range(5)
    ]
    baking = make_deployment(shop, shop.releases.get(version="2.0"), state="baking").name
    first = program.get("/deployments?limit=2&active=false").json()
    assert [one["name"] for one in first["items"]] == names[:2:-1]
    make_deployment(shop, shop.releases.get(version="1.0"), state="failed")
    seen, address = [one["name"] for one in first["items"]], first["next"]
    while address:
        page = program.get(address.removeprefix("/api/v1")).json()
        seen += [one["name"] for one in page["items"]]
        address = page["next"]
    assert seen == names[::-1]
    for query in ("active=true", "state=baking", "version=2.0"):
        assert [one["name"] for one in program.get(f"/deployments?{query}").json()["items"]] == [baking]
    assert program.get("/deployments?service=mall").json() == {"items": [], "next": None}


def test_services_show_what_serves_and_no_secret(program: Program, shop: Service) -> None:
    answer = program.get("/services")
    assert [one["name"] for one in answer.json()["items"]] == ["shop"]
    shown = program.get("/services/shop")
    assert (shown.json()["version"], shown.json()["split"]) == ("1.0", {"1.0": 100.0})
    assert b"hunter" not in answer.content + shown.content


def test_a_plan_says_what_would_happen(program: Program, shop: Service) -> None:
    make_steps(shop)
    plan = program.get("/services/shop/plan?version=2.0").json()
    assert [stage["effective_percent"] for stage in plan["stages"]] == [10.0, 50.0, 100.0]
    assert [step["name"] for step in plan["pipeline"]] == ["Types", "Tests", "Wheel"]
    assert program.get("/services/shop/plan?version=1.0").json()["obstacles"] == [
        "Refused: 1.0 already serves everybody."
    ]
    assert Deployment.objects.count() == 0


def test_a_deployment_in_full_has_its_steps_instances_and_verdict(program: Program, shop: Service) -> None:
    deployment = make_deployment(
        shop, shop.releases.get(version="2.0"), state="baking", verdict={"sentence": "Good."}, health={"score": 100}
    )
    deployment.step_runs.create(phase="check", position=0, name="Types", kind="command", outcome="passed")
    make_instance(shop, deployment.release, 0, deployment=deployment)
    shown = program.get(f"/deployments/{deployment.name}").json()
    assert [(step["name"], step["outcome"]) for step in shown["steps"]] == [("Types", "passed")]
    assert [(one["version"], one["condition"]) for one in shown["instances"]] == [("2.0", "ready")]
    assert (shown["verdict"], shown["health"]) == ({"sentence": "Good."}, {"score": 100})


@pytest.mark.usefixtures("roles_are_known")
def test_a_list_takes_the_same_few_queries_however_long_it_is(program: Program, shop: Service, root: User) -> None:
    program.get("/deployments")  # notes the use of the token

    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as seen:
            assert program.get(path).status_code == 200
        return len(seen)

    before = {path: queries(path) for path in ("/deployments", "/services", "/services/shop/releases")}
    now = clock.now()
    for number in range(6):
        release = make_release(shop, f"9.{number}")
        make_deployment(shop, release, state="succeeded", at=now - timedelta(hours=number))
        serve(make_service(f"s{number}"), release)
    assert {path: queries(path) for path in before} == before
    # the token with its owner, the roles of the owner's groups, and the list (a superuser's permissions ask nothing)
    assert before["/deployments"] == 3
