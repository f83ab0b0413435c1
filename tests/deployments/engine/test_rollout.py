"""A service between fakes: what a whole rollout does to its rows, its instances and its edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.notifications.models import Message
from deployments.engine.requests import request_command, stop_line
from deployments.models import Command, Deployment, Instance, Observation, Release, Service
from tests.deployments.engine.conftest import ask, release_of
from tests.deployments.engine.fakes import Stage, state_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def second(service: Service, first: Release, tmp_path: Path) -> Release:
    return release_of(service, "2.0", tmp_path)


def path_of(deployment: Deployment) -> list[str]:
    return [to for was, to in deployment.events.values_list("from_state", "to_state") if was != to]


def test_a_first_release_is_plainly_started(stage: Stage, service: Service, first: Release) -> None:
    state = state_of(service)

    assert (state.current, state.previous, state.split) == (first, None, {"1.0": 1000})
    assert stage.target.running("1.0") == ["shop-1.0-0", "shop-1.0-1"]
    assert stage.edge.split("shop") == {"1.0": 1000}
    assert Message.objects.get().kind == "deployment_succeeded"


def test_a_good_release_goes_from_stage_to_stage_and_the_old_one_leaves_last(
    stage: Stage, service: Service, second: Release
) -> None:
    deployment = ask(service, second)

    stage.until(deployment, "baking")
    assert stage.edge.split("shop") == {"1.0": 900, "2.0": 100}
    assert (deployment.requested_permille, deployment.effective_permille) == (100, 100)
    assert stage.target.running("2.0") == ["shop-2.0-0"]
    while deployment.stage_index == 0:
        stage.tick(service)
        deployment.refresh_from_db()
    assert stage.edge.split("shop") == {"1.0": 500, "2.0": 500}
    stage.until(deployment, "succeeded")

    assert path_of(deployment) == [
        "queued", "starting", "shifting", "baking", "shifting", "baking", "shifting", "baking", "validating",
        "finishing", "succeeded",
    ]  # fmt: skip
    state = state_of(service)
    assert (state.current, state.previous, state.split) == (second, deployment.from_release, {"2.0": 1000})
    assert (stage.target.running("1.0"), len(stage.target.running("2.0"))) == ([], 2)
    assert stage.target.stopped == ["shop-1.0-0", "shop-1.0-1"]
    assert deployment.verdict["outcome"] == "pass"
    assert Observation.objects.filter(deployment=deployment).count() >= 6
    assert (deployment.lease_owner, deployment.lease_expires_at) == ("", None)


def test_an_instance_gets_no_traffic_before_the_edge_too_has_found_it_healthy(
    stage: Stage, service: Service, second: Release
) -> None:
    stage.edge.unseen = {"shop-2.0-0"}
    deployment = ask(service, second)

    stage.until(deployment, "starting")
    stage.tick(service, 5)
    deployment.refresh_from_db()
    assert (deployment.state, stage.edge.split("shop")) == ("starting", {"1.0": 1000})
    waiting = Instance.objects.get(name="shop-2.0-0")
    assert (waiting.ready_since, waiting.health["problem"]) == (None, "the edge has not seen it ready yet")

    stage.edge.unseen = set()
    stage.until(deployment, "baking")
    assert stage.edge.split("shop") == {"1.0": 900, "2.0": 100}
    assert "problem" not in Instance.objects.get(name="shop-2.0-0").health


def test_what_was_ready_stays_so_while_the_edge_begins_anew(stage: Stage, service: Service, first: Release) -> None:
    stage.tick(service)
    before = list(Instance.objects.values_list("name", "ready_since"))
    stage.edge.unseen = {"shop-1.0-0", "shop-1.0-1"}
    stage.tick(service, 3)
    assert list(Instance.objects.values_list("name", "ready_since")) == before
    assert [ready for _, ready in before if ready is None] == []


def test_a_bad_release_is_taken_back_and_the_reason_is_said_with_numbers(
    stage: Stage, service: Service, first: Release, second: Release
) -> None:
    stage.errors["2.0"] = 1.0
    deployment = ask(service, second)

    stage.until(deployment, "rolled_back")

    assert "2.0 failed" in deployment.error
    assert stage.edge.split("shop") == {"1.0": 1000}
    assert (stage.target.running("2.0"), len(stage.target.running("1.0"))) == ([], 2)
    assert "shop-1.0-0" not in stage.target.stopped
    assert state_of(service).current == first
    assert Message.objects.filter(kind="deployment_rolled_back", key__contains=deployment.name).count() == 1
    assert deployment.memory["detected"] >= 0


def test_an_abort_is_acknowledged_by_the_next_tick_and_the_traffic_is_back_in_it(
    stage: Stage, service: Service, second: Release
) -> None:
    deployment = ask(service, second)
    stage.until(deployment, "baking")
    command = request_command(deployment, Command.Kind.ABORT, actor="olga", reason="not today")

    stage.tick(service)

    command.refresh_from_db()
    assert (command.outcome, stage.edge.split("shop")) == ("goes back", {"1.0": 1000})
    stage.until(deployment, "rolled_back")
    assert deployment.error == "aborted by olga: not today"


def test_a_pause_holds_the_stage_and_a_resume_goes_on(stage: Stage, service: Service, second: Release) -> None:
    deployment = ask(service, second)
    stage.until(deployment, "baking")
    request_command(deployment, Command.Kind.PAUSE, actor="olga")
    stage.tick(service, 8)
    deployment.refresh_from_db()
    observed = deployment.observed_seconds
    assert (deployment.state, deployment.resume_to) == ("paused", "baking")
    assert observed < 6

    request_command(deployment, Command.Kind.RESUME, actor="olga")
    stage.until(deployment, "succeeded")


def test_a_bad_release_is_taken_back_even_while_it_is_paused(stage: Stage, service: Service, second: Release) -> None:
    deployment = ask(service, second)
    stage.until(deployment, "baking")
    request_command(deployment, Command.Kind.PAUSE, actor="olga")
    stage.tick(service)
    stage.errors["2.0"] = 1.0

    stage.until(deployment, "rolled_back")


def test_a_stopped_line_holds_a_deployment_and_lets_it_go_on(stage: Stage, service: Service, second: Release) -> None:
    deployment = ask(service, second)
    stage.until(deployment, "baking")
    stop_line(stopped=True, reason="an incident", actor="olga")
    stage.tick(service, 5)
    deployment.refresh_from_db()
    assert (deployment.state, deployment.pause_reason) == ("paused", "the line is stopped: an incident")

    stop_line(stopped=False, reason="", actor="olga")
    stage.until(deployment, "succeeded")


def test_without_the_edges_counters_a_stage_neither_ends_nor_fails(
    stage: Stage, service: Service, second: Release
) -> None:
    deployment = ask(service, second)
    stage.until(deployment, "baking")
    stage.edge.away = True

    stage.tick(service, 18, seconds=4)

    deployment.refresh_from_db()
    assert (deployment.state, deployment.observed_seconds < 6) == ("baking", True)
    assert Message.objects.filter(kind="deployment_held").count() == 1
    stage.edge.away = False
    stage.until(deployment, "succeeded")


def test_counters_that_begin_anew_are_no_requests(stage: Stage, service: Service, second: Release) -> None:
    deployment = ask(service, second)
    stage.until(deployment, "baking")
    stage.tick(service)
    stage.edge.epoch, stage.edge.counted = "2", {}

    stage.tick(service)

    seen = Observation.objects.filter(deployment=deployment).latest("pk")
    assert (seen.data["new"], seen.data["old"]) == (None, None)
    stage.until(deployment, "succeeded")


def test_a_release_whose_instances_cannot_be_started_is_taken_back_at_once(
    stage: Stage, service: Service, second: Release
) -> None:
    stage.target.cannot["2.0"] = "there is no such program"
    deployment = ask(service, second)

    stage.until(deployment, "rolled_back", ticks=6)

    assert "there is no such program" in deployment.error
    assert stage.edge.split("shop") == {"1.0": 1000}


def test_instances_that_never_become_ready_are_taken_back_after_the_deadline(
    stage: Stage, service: Service, second: Release
) -> None:
    stage.unready.add("2.0")
    deployment = ask(service, second)

    stage.until(deployment, "rolled_back", ticks=80)

    assert deployment.error == "0 of 1 instances of 2.0 were ready after 20 s."
    assert deployment.requested_permille == 0


def test_a_release_that_runs_out_of_memory_is_taken_back(stage: Stage, service: Service, second: Release) -> None:
    deployment = ask(service, second)
    stage.until(deployment, "baking")
    stage.target.kill("shop-2.0-0", oom_killed=True)

    stage.until(deployment, "rolled_back")

    assert "needed more memory" in deployment.error


def test_poor_health_keeps_a_stage_and_fails_it_after_its_time(stage: Stage, service: Service, second: Release) -> None:
    stage.document["services"] = {"database": "fail"}
    deployment = ask(service, second)

    stage.until(deployment, "rolled_back")

    assert "did not reach 80 within 10 s" in deployment.error
    assert deployment.stage_index == 0


def test_too_little_data_is_held_and_a_person_promotes(stage: Stage, service: Service, second: Release) -> None:
    stage.rps = 0
    deployment = ask(service, second)

    stage.until(deployment, "paused", ticks=80)

    assert deployment.pause_reason.startswith("No verdict was reached.")
    assert Message.objects.filter(kind="deployment_held").count() == 1
    request_command(deployment, Command.Kind.PROMOTE_FULLY, actor="olga")
    stage.until(deployment, "succeeded")


def test_what_is_forward_only_is_not_taken_back_by_itself(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    release = release_of(service, "3.0", tmp_path, forward_only=True)
    stage.errors["3.0"] = 1.0
    deployment = ask(service, release)

    stage.until(deployment, "rollback_blocked")
    stage.tick(service, 5)

    deployment.refresh_from_db()
    assert (deployment.state, stage.edge.split("shop")) == ("rollback_blocked", {"1.0": 900, "3.0": 100})
    assert Message.objects.filter(kind="rollback_blocked").count() == 1
    request_command(deployment, Command.Kind.ROLL_BACK, actor="olga")
    stage.until(deployment, "rolled_back")
    assert stage.edge.split("shop") == {"1.0": 1000}


def test_a_second_deployment_waits_and_begins_when_the_first_is_over(
    stage: Stage, service: Service, first: Release, second: Release, tmp_path: Path
) -> None:
    third = release_of(service, "3.0", tmp_path)
    deployment, later = ask(service, second), ask(service, third)
    stage.until(deployment, "baking")
    later.refresh_from_db()
    assert (later.state, later.from_release) == ("waiting", None)

    stage.until(later, "succeeded", ticks=120)

    deployment.refresh_from_db()
    assert (deployment.state, later.from_release) == ("succeeded", second)
    assert state_of(service).current == third


def test_a_first_release_that_is_bad_is_taken_away(stage: Stage, service: Service, tmp_path: Path) -> None:
    stage.target.cannot["1.0"] = "there is no such program"
    deployment = ask(service, release_of(service, "1.0", tmp_path))

    stage.until(deployment, "rolled_back")

    assert (stage.target.there, state_of(service).split) == ({}, {})
    assert not Instance.objects.filter(stopped_at__isnull=True).exists()


def test_a_service_of_no_instances_is_deployed_without_any(stage: Stage, service: Service, tmp_path: Path) -> None:
    service.instances = 0
    service.save()
    deployment = ask(service, release_of(service, "1.0", tmp_path))

    stage.until(deployment, "succeeded")

    assert stage.target.there == {}


def test_the_only_instance_is_replaced_by_one_beside_it(stage: Stage, service: Service, tmp_path: Path) -> None:
    service.instances = 1
    service.save()
    stage.until(ask(service, release_of(service, "1.0", tmp_path), at_once=True), "succeeded")
    deployment = ask(service, release_of(service, "2.0", tmp_path))

    for _ in range(25):
        stage.tick(service)
        assert stage.target.running("1.0") or stage.edge.split("shop") == {"2.0": 1000}
    deployment.refresh_from_db()
    assert (deployment.state, stage.target.running("2.0")) == ("succeeded", ["shop-2.0-0"])


def test_without_an_edge_the_instances_are_exchanged_beside_the_old_ones(
    stage: Stage, service: Service, tmp_path: Path
) -> None:
    service.edge_port = None
    service.save()
    stage.until(ask(service, release_of(service, "1.0", tmp_path)), "succeeded")
    deployment = ask(service, release_of(service, "2.0", tmp_path))

    stage.until(deployment, "succeeded")

    assert (stage.target.running("1.0"), len(stage.target.running("2.0"))) == ([], 2)
    assert stage.edge.told == 0
