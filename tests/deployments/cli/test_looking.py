"""Looking: status, history, plan, replay."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from controlplane.kernel import clock
from deployments.judge.types import Counts, Sample
from deployments.models import Deployment, LineStop, Observation, Service
from deployments.stages import Stage
from tests.deployments.factories import make_deployment, make_release, make_service, make_steps, serve

from .conftest import Call


@pytest.fixture
def shop(db: None) -> Service:
    service = make_service("shop")
    serve(service, make_release(service, "1.0"))
    make_release(service, "2.0")
    return service


@pytest.fixture
def baking(shop: Service) -> Deployment:
    return make_deployment(
        shop, shop.releases.get(version="2.0"), state="baking", stage_index=1,
        from_release=shop.releases.get(version="1.0"), requested_permille=500, effective_permille=498,
        verdict={"outcome": "pass", "sentence": "Nothing speaks against it."}, health={"score": 100},
    )  # fmt: skip


def test_how_one_deployment_stands(call: Call, baking: Deployment) -> None:
    called = call("status", "shop")
    assert called.code == 0
    lines = called.out.splitlines()
    assert lines[0] == f"{baking.name} shop 1.0 → 2.0: baking, 50 % (49.8 % seen)"
    assert [line.split() for line in lines[2:5]] == [
        ["✓", "10", "%", "300", "s"], ["▶", "50", "%", "600", "s"], ["·", "100", "%", "0", "s"],
    ]  # fmt: skip
    assert "  Nothing speaks against it." in lines
    assert "  Health score 100." in lines
    document = call("status", baking.name, "--json").document
    assert [stage["standing"] for stage in document["stages"]] == ["done", "now", "ahead"]
    assert (document["requested_percent"], document["effective_percent"]) == (50.0, 49.8)
    assert "promote" in document["possible_commands"]


@pytest.mark.parametrize(("state", "code"), [("rolled_back", 3), ("paused", 5), ("rollback_blocked", 6), ("failed", 1)])
def test_the_exit_code_of_status_is_the_outcome(call: Call, shop: Service, state: str, code: int) -> None:
    make_deployment(shop, shop.releases.get(version="2.0"), state=state, error="It was bad.")
    called = call("status", "shop")
    assert called.code == code
    assert "  It was bad." in called.out.splitlines()


def test_all_services_at_a_glance(call: Call, baking: Deployment) -> None:
    make_service("api")
    LineStop(pk=1, stopped=True, reason="the fair").save()
    called = call("status")
    assert called.code == 0
    lines = called.out.splitlines()
    assert lines[0] == "The line is stopped: the fair"
    assert lines[2].split() == ["api", "–", "–"]
    assert lines[3].startswith("shop")
    assert "50 % (49.8 % seen)" in lines[3]
    document = call("status", "--json").document
    assert document["line_stopped"] == "the fair"
    assert [(one["name"], one["version"]) for one in document["services"]] == [("api", None), ("shop", "1.0")]
    assert document["services"][1]["deployment"]["name"] == baking.name


def test_history_is_the_newest_first(call: Call, shop: Service) -> None:
    now = clock.now()
    names = [
        make_deployment(shop, shop.releases.get(version="2.0"), state="succeeded", at=now - timedelta(hours=hours)).name
        for hours in (1, 2, 3)
    ]
    other = make_service("api")
    make_deployment(other, make_release(other), state="succeeded", at=now - timedelta(days=1))
    assert [one["name"] for one in call("history", "shop", "--json").document] == names
    assert len(call("history", "--json").document) == 4
    assert [one["name"] for one in call("history", "--limit", "2", "--json").document] == names[:2]
    assert call("history", "shop").out.splitlines()[1].split()[:4] == [names[0], "shop", "2.0", "succeeded"]
    assert call("history", "mall").code == 2


def test_a_plan_says_the_requested_and_the_effective_exposure(call: Call, shop: Service) -> None:
    make_steps(shop)
    called = call("plan", "shop", "--version", "2.0", "--json")
    assert called.code == 0
    names = ("requested_percent", "effective_percent", "bake_seconds", "new_instances", "old_instances")
    assert [tuple(stage[name] for name in names) for stage in called.document["stages"]] == [
        (10.0, 10.0, 300, 1, 2),
        (50.0, 50.0, 600, 1, 2),
        (100.0, 100.0, 0, 2, 2),
    ]
    assert [step["name"] for step in called.document["pipeline"]] == ["Types", "Tests", "Wheel"]
    assert (called.document["from_version"], called.document["obstacles"]) == ("1.0", [])
    assert Deployment.objects.count() == 0


@pytest.mark.parametrize(("changed", "effective"), [({"edge_port": None}, 100.0), ({"instances": 0}, 0.0)])
def test_where_nothing_divides_the_traffic_a_plan_has_one_stage(
    call: Call, shop: Service, changed: dict[str, Any], effective: float
) -> None:
    for name, value in changed.items():
        setattr(shop, name, value)
    shop.save()
    (stage,) = call("plan", "shop", "--json").document["stages"]
    assert (stage["requested_percent"], stage["effective_percent"]) == (100.0, effective)
    assert (stage["new_instances"], stage["old_instances"]) == (shop.instances, shop.instances)


def test_a_plan_says_what_stands_in_the_way(call: Call, shop: Service, baking: Deployment) -> None:
    waits = call("plan", "shop", "--version", "2.0")
    assert (waits.code, waits.out.splitlines()[-1]) == (0, f"! Waits for {baking.name}, which is baking.")
    LineStop(pk=1, stopped=True, reason="the fair").save()
    shop.busy_policy, shop.enabled = "refuse", False
    shop.save()
    refused = call("plan", "shop")
    assert refused.code == 2
    assert refused.out.splitlines()[-3:] == [
        "! Refused: shop is switched off.",
        "! Refused: the line is stopped: the fair",
        f"! Refused while there is {baking.name}, which is baking.",
    ]


def test_a_plan_that_no_rollout_can_follow_is_told(call: Call, db: None) -> None:
    make_service("shop", stages=(Stage(100, 300), Stage(500, 300)))
    called = call("plan", "shop")
    assert called.code == 2
    assert called.out.splitlines()[-1] == ("! Refused: The last stage is 50 %. End the plan with a stage of 100 %.")


# --- replay -------------------------------------------------------------------------------------------------------


def observe(deployment: Deployment, *, errors: int, ticks: int) -> None:
    begun = clock.now() - timedelta(minutes=5)
    for number in range(ticks):
        at = begun + timedelta(seconds=2 * number)
        sample = Sample(at, 0, 100, Counts(10, errors), Counts(90, 0), score=100)
        Observation.objects.create(deployment=deployment, at=at, stage_index=0, permille=100, data=sample.to_json())


def test_a_bad_rollout_is_judged_again_with_its_own_policy_and_with_another(call: Call, baking: Deployment) -> None:
    observe(baking, errors=3, ticks=30)
    called = call("replay", baking.name, "--json")
    assert called.code == 1
    document = called.document
    assert (document["deployment"], document["samples"]) == (baking.name, 30)
    assert document["policy"] == {
        "alpha": 0.01, "margin": 1.5, "error_budget": 100, "min_requests": 20, "min_score": 80,
    }  # fmt: skip
    assert document["failed_at"] is not None
    assert document["sentence"].startswith("It would have failed at ")
    lenient = call("replay", "shop", "--margin", "1000000", "--error-budget", "100000", "--ticks", "--json")
    assert (lenient.code, lenient.document["failed_at"]) == (0, None)
    assert len(lenient.document["ticks"]) == 30
    assert (Deployment.objects.count(), Observation.objects.count()) == (1, 30)


def test_a_good_rollout_would_not_have_failed(call: Call, baking: Deployment) -> None:
    observe(baking, errors=0, ticks=30)
    called = call("replay", "shop", "--ticks")
    assert called.code == 0
    assert called.out.splitlines()[-1].startswith(f"{baking.name}, 30 observations: It would not have failed. ")
    assert len(called.out.splitlines()) == 1 + 30 + 1


@pytest.mark.parametrize("wrong", [["--alpha", "0"], ["--alpha", "1.5"], ["--margin", "0.5"], ["--min-requests", "0"]])
def test_a_policy_that_no_judge_can_work_with_is_refused(call: Call, baking: Deployment, wrong: list[str]) -> None:
    called = call("replay", "shop", *wrong)
    assert (called.code, called.out) == (2, "")
