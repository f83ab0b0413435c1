"""What every edge owes the engine, whatever proxy it is. A new kind adds its world to ``WORLDS``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.kernel.errors import LeaseLost
from deployments.edge.base import Edge
from deployments.errors import EdgeUnavailable
from tests.deployments.edge.kit import World, until

WORLDS = {"envoy": World}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, free_port: Callable[[], int]) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="zt-edge-") as folder:
        world = WORLDS[request.param](Path(folder), free_port)
        try:
            world.start()
            yield world
        finally:
            world.close()


def test_it_offers_all_that_the_engine_asks(world: World) -> None:
    edge: Edge = world.edge

    edge.check()
    assert edge.read_back() == {}
    assert edge.counters("web").releases == {}


def test_the_desired_state_is_absolute_and_may_be_told_twice(world: World) -> None:
    route = world.split({"1": (600, [world.instance("1")]), "2": (400, [world.instance("2")])})
    once = world.edge.read_back()

    world.edge.apply([route])

    assert world.edge.read_back() == once
    assert once["web"].permille == {"1": 600, "2": 400}


def test_two_processes_that_tell_the_same_are_one(world: World) -> None:
    route = world.split({"1": (1000, [world.instance("1")])})
    other = World(world.folder, world.free_port).edge

    other.apply([route])

    assert other.read_back() == world.edge.read_back()
    assert other.counters("web").epoch == world.edge.counters("web").epoch


def test_who_comes_too_late_changes_nothing(world: World) -> None:
    instance = world.instance("1")
    old = world.split({"1": (1000, [instance])})
    new = world.split({"1": (1000, [instance])})

    with pytest.raises(LeaseLost):
        world.edge.apply([replace(old, releases=())])

    assert world.edge.read_back()["web"].generation == new.generation


def test_a_dying_instance_moves_no_share(world: World) -> None:
    old = [world.instance("1"), world.instance("1")]
    world.split({"1": (500, old), "2": (500, [world.instance("2")])}, sticky=False)

    old[0].kill()
    until("it is found out", lambda: world.healthy()["1"] == 1)
    seen = world.client().releases(600)

    assert 0.39 < seen["2"] / 600 < 0.61
    assert set(seen) == {"1", "2"}


def test_a_service_that_is_taken_away_leaves_the_others_alone(world: World) -> None:
    instance = world.instance("1")
    kept = world.route({"1": (1000, [instance.endpoint()])}, service="kept")
    gone = world.route({"1": (1000, [instance.endpoint()])}, service="gone", prefix="/gone")
    world.apply(kept, gone)

    world.apply(kept)

    until("it is gone", lambda: set(world.edge.read_back()) == {"kept"})
    assert world.client().get("/gone").status == 200  # the other has the whole port now


def test_a_proxy_that_is_down_tells_nothing_and_can_be_told(world: World) -> None:
    route = world.split({"1": (1000, [world.instance("1")])})
    world.stop()

    for ask in (world.edge.read_back, lambda: world.edge.counters("web"), world.edge.check):
        with pytest.raises(EdgeUnavailable):
            ask()
    world.edge.apply([replace(route, generation=route.generation + 1)])
    world.start()
    until("it does what it was told", lambda: world.edge.read_back()["web"].generation == route.generation + 1)
