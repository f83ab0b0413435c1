"""Longer than a test may be: everything dies in turn, under load, while the weights change."""

from __future__ import annotations

import random

import pytest

from tests.deployments.edge.kit import World, until

pytestmark = pytest.mark.faults


def test_a_hundred_changes_under_load_fail_nothing(world: World) -> None:
    old, new = [world.instance("1.0") for _ in range(3)], [world.instance("2.0"), world.instance("2.0")]
    world.split({"1.0": (1000, old), "2.0": (0, new)})
    load = world.load(16)

    for number in range(100):
        share = (100, 500, 1000, 250, 0)[number % 5]
        world.split({"1.0": (1000 - share, old), "2.0": (share, new[: 1 + number % 2])}, stable="1.0")

    seen = load.end()
    assert (seen["failed"], seen["closed"]) == (0, 0), seen


def test_whole_rollouts_with_draining_fail_nothing(world: World) -> None:
    running = [world.instance("0"), world.instance("0")]
    world.split({"0": (1000, running)})
    load = world.load(8, "/sleep/0.05")

    for number in range(1, 4):
        stable, release = str(number - 1), str(number)
        fresh = [world.instance(release), world.instance(release)]
        for share in (100, 500, 1000):
            world.split({stable: (1000 - share, running), release: (share, fresh)}, stable=stable)
        points = [one.endpoint(draining=True) for one in running]
        shares = {stable: (0, points), release: (1000, [one.endpoint() for one in fresh])}
        world.apply(world.route(shares, stable=release))
        until("the old have finished", lambda name=stable: world.edge.counters("web").releases[name].active == 0)  # type: ignore[misc]
        world.split({release: (1000, fresh)})
        for one in running:
            one.kill()
        running = fresh

    seen = load.end()
    assert (seen["failed"], seen["closed"]) == (0, 0), seen
    assert set(seen["releases"]) == {"0", "1", "2", "3"}


def test_instances_that_die_and_come_back_cost_only_what_they_had_in_hand(world: World) -> None:
    chance = random.Random(5)
    old, new = [world.instance("1.0") for _ in range(3)], [world.instance("2.0")]
    world.split({"1.0": (900, old), "2.0": (100, new)}, sticky=False)
    clients = 8
    load = world.load(clients)

    for _ in range(6):
        group = chance.choice([old, old, new])
        place = chance.randrange(len(group))
        port = group[place].port
        group[place].kill()
        until("it is found out", lambda: sum(world.healthy().values()) == 3)
        group[place] = world.instance(group[place].release, port)
        world.split({"1.0": (900, old), "2.0": (100, new)}, sticky=False)
        until("it is back", lambda: sum(world.healthy().values()) == 4)

    seen = load.end()
    assert seen["closed"] == 0
    assert set(seen["problems"]) <= {"503"}  # begun by the one that died: nobody may do it again
    assert seen["failed"] <= 6 * clients
    counted = world.edge.counters("web").releases
    assert sum(one.requests for one in counted.values()) == seen["requests"]
    assert sum(one.errors for one in counted.values()) == seen["failed"]


def test_envoy_killed_again_and_again_comes_back_as_it_was_told(world: World) -> None:
    old, new = [world.instance("1.0")], [world.instance("2.0")]
    epochs = set()

    for number in range(1, 9):
        share = number * 100
        route = world.split({"1.0": (1000 - share, old), "2.0": (share, new)})
        world.stop()
        world.start()
        until("both are healthy", lambda: world.healthy() == {"1.0": 1, "2.0": 1})
        seen = world.edge.read_back()["web"]
        assert (seen.generation, seen.permille["2.0"]) == (route.generation, share)
        epochs.add(world.edge.counters("web").epoch)

    assert len(epochs) == 8
