"""What the edge counts, by the release that answered: exact, because the judge acts on it."""

from __future__ import annotations

from deployments.edge.base import ReleaseCounters
from tests.deployments.edge.kit import World, until


def _slow_seen(world: World, release: str, slow: int) -> ReleaseCounters:
    """Histograms are a second late."""
    until("the times are in", lambda: world.edge.counters("web").releases[release].slow == slow)
    return world.edge.counters("web").releases[release]


def test_answers_are_counted_by_release_and_kind(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")]), "2.0": (0, [world.instance("2.0")])}, slow_request_ms=2500)
    client = world.client()
    for times, path in ((7, "/"), (3, "/code/500"), (2, "/code/503"), (4, "/shed"), (5, "/code/429"), (6, "/code/404")):
        client.releases(times, path)
    client.releases(2, "/sleep/2.6")
    client.releases(3, "/code/502", X__Canary="always")

    old = _slow_seen(world, "1.0", 2)
    new = world.edge.counters("web").releases["2.0"]

    assert (old.requests, old.errors, old.shed, old.limited, old.active) == (29, 5, 4, 5, 0)
    assert (new.requests, new.errors, new.shed, new.limited, new.slow) == (3, 3, 0, 0, 0)
    assert old.buckets[60_000.0] == 29
    assert old.buckets[2500.0] == 27
    assert list(old.buckets.values()) == sorted(old.buckets.values())


def test_what_is_in_flight_is_counted(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})
    load = world.load(5, "/sleep/0.5")

    until("five are in flight", lambda: world.edge.counters("web").releases["1.0"].active == 5)
    load.end()
    until("none is", lambda: world.edge.counters("web").releases["1.0"].active == 0)


def test_what_the_stable_release_answered_for_another_is_its_own(world: World) -> None:
    old, new = world.instance("1.0"), world.instance("2.0")
    world.split({"1.0": (1000, [old]), "2.0": (0, [new])})
    client = world.client()
    client.releases(5, X__Canary="always")
    client.releases(2, "/code/500", X__Canary="always")
    new.kill()
    until("it is found out", lambda: world.healthy()["2.0"] == 0)

    client.releases(10, X__Canary="always")
    client.releases(3, "/code/500", X__Canary="always")
    client.releases(4, "/shed", X__Canary="always")

    seen = world.edge.counters("web").releases
    assert (seen["2.0"].requests, seen["2.0"].errors, seen["2.0"].shed) == (7, 2, 0)
    assert (seen["1.0"].requests, seen["1.0"].errors, seen["1.0"].shed) == (17, 3, 4)


def test_requests_that_nobody_could_answer_are_errors_of_the_release_whose_they_were(world: World) -> None:
    only = world.instance("1.0")
    world.split({"1.0": (1000, [only])})
    client = world.client()
    client.releases(3)
    only.kill()

    assert {client.get().status for _ in range(6)} == {503}

    seen = world.edge.counters("web").releases["1.0"]
    assert (seen.requests, seen.errors) == (9, 6)


def test_counters_outlive_every_change_of_the_shares_and_begin_anew_with_envoy(world: World) -> None:
    old, new = [world.instance("1.0")], [world.instance("2.0")]
    world.split({"1.0": (1000, old), "2.0": (0, new)})
    client = world.client()
    client.releases(10)
    for share in (100, 1000, 0):
        world.split({"1.0": (1000 - share, old), "2.0": (share, new)})
    before = world.edge.counters("web")
    assert before.releases["1.0"].requests == 10

    world.stop()
    world.start()

    after = world.edge.counters("web")
    assert after.epoch > before.epoch
    assert after.releases["1.0"].requests == 0


def test_an_unknown_service_has_no_counters(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    assert dict(world.edge.counters("we").releases) == {}
