"""Between deployments: what is wanted is kept, whoever hurts it, and a service can be held for a restore."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.kernel import clock
from controlplane.kernel.errors import Unavailable
from controlplane.kernel.ports import all_service_controls
from controlplane.kernel.registry import probes, schedules
from controlplane.notifications.models import Message
from deployments import metrics, tasks
from deployments.engine import tick as engine
from deployments.engine.service_control import DeployedService
from deployments.models import Instance, Release, Service, ServiceState
from deployments.targets.base import Seen
from tests.deployments.engine.conftest import release_of
from tests.deployments.engine.fakes import Stage, state_of

pytestmark = pytest.mark.django_db


def test_an_instance_that_ended_is_started_again_ever_later(stage: Stage, service: Service, first: Release) -> None:
    stage.target.kill("shop-1.0-0")
    stage.tick(service)
    row = Instance.objects.get(name="shop-1.0-0")
    assert (stage.target.running("1.0"), row.restarts) == (["shop-1.0-0", "shop-1.0-1"], 1)

    stage.target.kill("shop-1.0-0")
    stage.tick(service, seconds=1)
    assert stage.target.running("1.0") == ["shop-1.0-1"]
    stage.tick(service, seconds=1)
    row.refresh_from_db()
    assert (len(stage.target.running("1.0")), row.restarts) == (2, 2)


def test_nothing_is_touched_while_the_target_does_not_answer(stage: Stage, service: Service, first: Release) -> None:
    stage.target.away = True

    stage.tick(service, 3)

    assert Instance.objects.filter(stopped_at__isnull=True, stopping_since__isnull=True).count() == 2
    stage.target.away = False
    stage.tick(service)
    assert (len(stage.target.running("1.0")), len(stage.target.specs)) == (2, 2)


def test_a_change_of_the_number_is_followed_and_the_surplus_drains_first(
    stage: Stage, service: Service, first: Release
) -> None:
    service.instances = 3
    service.save()
    stage.tick(service, 2)
    assert len(stage.target.running("1.0")) == 3
    service.instances = 1
    service.save()

    stage.tick(service)
    assert (len(stage.target.running("1.0")), stage.target.stopped) == (3, [])
    assert sum(one.draining for one in stage.edge.routes["shop"].releases[0].endpoints) == 2
    stage.tick(service, 4)

    assert stage.target.running("1.0") == ["shop-1.0-0"]


def test_what_the_edge_does_on_its_own_is_put_right(stage: Stage, service: Service, first: Release) -> None:
    told = stage.edge.told
    stage.tick(service)
    assert stage.edge.told == told
    stage.edge.routes = {}

    stage.tick(service)
    assert stage.edge.told == told  # it knows nothing of the service: that is no other answer than none
    state = ServiceState.objects.get(service=service)
    ServiceState.objects.filter(pk=state.pk).update(generation=state.generation + 1)
    stage.edge.apply([])
    stage.tick(service)


def test_an_instance_without_a_row_is_adopted_and_taken_away(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    old = release_of(service, "0.9", tmp_path)
    stage.target.there["shop-0.9-0"] = Seen("shop", "0.9", 0, "shop-0.9-0", True, "127.0.0.1", 1, {}, stage.now)

    stage.tick(service, 4)

    assert (stage.target.running("0.9"), "shop-0.9-0" in stage.target.there) == ([], False)
    assert Instance.objects.get(release=old).stopped_at is not None


def test_too_few_ready_instances_are_told_of_once(stage: Stage, service: Service, first: Release) -> None:
    stage.unready.add("shop-1.0-1")

    stage.tick(service, 40)

    assert Message.objects.filter(kind="service_degraded").count() == 1
    assert state_of(service).facts["healthy"] == 1


def test_a_service_that_is_switched_off_is_left_as_it_is(stage: Stage, service: Service, first: Release) -> None:
    service.enabled = False
    service.save()
    stage.target.kill("shop-1.0-0")

    stage.tick(service, 3)

    assert stage.target.running("1.0") == ["shop-1.0-1"]


def test_a_restore_stops_a_service_and_starts_it_again(stage: Stage, service: Service, first: Release) -> None:
    control = all_service_controls()["service-shop"]
    assert (control.is_running(), control.label) == (True, "shop (deployed)")

    control.stop(timeout_seconds=5)
    assert (control.is_running(), stage.target.running("1.0")) == (False, [])
    stage.tick(service, 3)
    assert stage.target.running("1.0") == []

    stage.unready.add("1.0")
    with pytest.raises(Unavailable, match="are not ready 0 s after they were let go"):
        control.start(timeout_seconds=0)
    stage.unready.clear()
    control.start(timeout_seconds=5)
    assert len(stage.target.running("1.0")) == 2


def test_a_service_that_is_gone_does_not_run(db: None) -> None:
    assert DeployedService("nobody").is_running() is False


def test_a_tick_is_due_by_its_time_and_only_where_nobody_is_at_it(
    stage: Stage, service: Service, first: Release
) -> None:
    assert list(engine.due()) == []
    stage.now += timedelta(seconds=10)
    assert list(engine.due()) == [service.pk]
    ServiceState.objects.update(lease_owner="other", lease_expires_at=clock.now() + timedelta(seconds=5))
    assert list(engine.due()) == []
    assert engine.tick_service(service.pk) == "taken"
    stage.now += timedelta(seconds=6)
    assert tasks.tick() == "1 due"
    assert metrics.takeovers.child()._value.get() >= 1


def test_a_due_time_that_a_wrong_clock_wrote_is_not_waited_for(stage: Stage, service: Service, first: Release) -> None:
    stage.now -= timedelta(hours=1)

    assert list(engine.due()) == [service.pk]


def test_the_schedule_the_probe_and_the_readings_are_there(stage: Stage, service: Service, first: Release) -> None:
    spec = schedules.get("deployments.tick")
    assert (spec.every_seconds, spec.expires_seconds, spec.queue, spec.editable) == (2, 4, "engine", False)
    assert probes.get("deployments").run().status == "pass"
    stage.now += timedelta(seconds=90)
    late = probes.get("deployments").run()
    assert (late.status, late.summary) == ("warn", "the latest tick is 86 s late")
    assert probes.get("deployments").critical is False
    found = {(reading.name, reading.labels): reading.value for reading in metrics.readings()}
    assert found["zantara_instances", ("shop", "ready")] == 2
    assert found["zantara_engine_tick_lag_seconds", ()] == 86.5
