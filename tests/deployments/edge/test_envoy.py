"""How Envoy is told and asked: files that are whole, read back, and refused with a sentence."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.kernel.errors import LeaseLost
from deployments.edge import current_edge, envoy_names
from deployments.edge.base import Endpoint, ReleaseShare, Route
from deployments.edge.envoy import FENCE_SECONDS, LOOK_SECONDS
from deployments.errors import EdgeRefused, EdgeUnavailable
from tests.deployments.edge.kit import World, until


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_is_in_force_is_read_back(world: World) -> None:
    old, new = world.instance("1.0"), world.instance("v2+fix.1")
    route = world.split({"1.0": (700, [old]), "v2+fix.1": (300, [new])})

    seen = world.edge.read_back()["web"]

    assert seen.generation == route.generation
    assert seen.permille == {"1.0": 700, "v2+fix.1": 300}
    assert {release: [(p.name, p.port, p.healthy) for p in points] for release, points in seen.endpoints.items()} == {
        "1.0": [(old.name, old.port, True)],
        "v2+fix.1": [(new.name, new.port, True)],
    }


def test_a_service_without_traffic_says_so(world: World) -> None:
    world.split({"1.0": (0, [world.instance("1.0")])})

    answer = world.client().get()

    assert world.edge.read_back()["web"].permille == {}
    assert (answer.status, answer.json["error"]) == (503, "NO_RELEASE")


def test_the_same_again_writes_nothing(world: World) -> None:
    route = world.split({"1.0": (1000, [world.instance("1.0")])})
    before = {path.name: path.stat().st_mtime_ns for path in world.edge.settings.folder.glob("*.json")}

    world.edge.apply([route])

    assert {path.name: path.stat().st_mtime_ns for path in world.edge.settings.folder.glob("*.json")} == before
    assert set(before) == {
        "bootstrap.json", "clusters.json", "listeners.json", f"routes-{world.port}.json", "endpoints-web--1~2E0.json",
    }  # fmt: skip


def test_what_is_not_wanted_any_more_is_taken_away(world: World) -> None:
    world.split({"1.0": (500, [world.instance("1.0")]), "2.0": (500, [world.instance("2.0")])})
    world.split({"2.0": (1000, [world.instance("2.0")])})
    until("its cluster is gone", lambda: set(world.edge.read_back()["web"].endpoints) == {"2.0"})
    assert not list(world.edge.settings.folder.glob("*1~2E0*"))

    world.apply()

    assert world.edge.read_back() == {}
    until("nobody listens", lambda: _is_refused(world.port))


def test_a_release_gets_no_traffic_before_envoy_knows_it(world: World) -> None:
    old, new = world.instance("1.0"), world.instance("2.0")
    world.split({"1.0": (1000, [old])})
    load = world.load()

    for _ in range(3):
        world.split({"1.0": (0, [old]), "2.0": (1000, [new])}, stable="1.0")
        world.split({"1.0": (1000, [old])})

    seen = load.end()
    assert (seen["failed"], seen["closed"]) == (0, 0), seen


def test_an_older_state_is_refused_and_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = world.instance("1.0")
    first = world.split({"1.0": (1000, [instance])})
    second = world.split({"1.0": (1000, [instance])})
    folder = world.edge.settings.folder
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}

    with pytest.raises(LeaseLost, match="comes too late"):
        world.edge.apply([replace(first, releases=())])

    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before
    assert world.edge.read_back()["web"].generation == second.generation
    monkeypatch.setattr("deployments.edge.envoy.FENCE_SECONDS", -1.0)  # as if that long had passed
    world.edge.apply([first])
    until("it is in force", lambda: world.edge.read_back()["web"].generation == first.generation)
    assert FENCE_SECONDS == 600


def test_envoy_that_was_killed_reads_the_files_again(world: World) -> None:
    route = world.split({"1.0": (900, [world.instance("1.0")]), "2.0": (100, [world.instance("2.0")])})
    world.stop()
    with pytest.raises(EdgeUnavailable, match="does not answer"):
        world.edge.read_back()
    later = world.route({s.release: (500, list(s.endpoints)) for s in route.releases})
    world.edge.apply([later])  # nobody listens: written all the same

    world.start()

    until("both are healthy", lambda: world.healthy() == {"1.0": 1, "2.0": 1})
    assert world.edge.read_back()["web"].permille == {"1.0": 500, "2.0": 500}
    assert set(world.client().releases(60)) == {"1.0", "2.0"}


def test_a_file_is_whole_at_every_moment(tmp_path: Path) -> None:
    edge = current_edge({"ZANTARA_DATA_DIR": str(tmp_path)})
    name = tmp_path / "edge" / "routes-3000.json"
    done = threading.Event()

    def write() -> None:
        for number in range(1, 60):
            points = tuple(Endpoint(f"i{n}", "127.0.0.1", 4000 + n) for n in range(number))
            edge.apply([Route("web", 3000, stable="1", releases=(ReleaseShare("1", 1000, points),), generation=number)])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        if name.exists():
            seen.add(json.loads(name.read_bytes())["version_info"])
    writer.join()

    assert seen
    assert json.loads(name.read_bytes())["version_info"] == "web=59"
    assert [path.name for path in (tmp_path / "edge").iterdir() if path.name.startswith(".")] == [".lock"]


def test_a_taken_port_is_told_and_hinders_no_other(
    world: World, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = free_port()
    good, bad = world.instance("1.0"), world.instance("1.0")
    fine = world.route({"1.0": (1000, [good.endpoint()])})
    stuck = world.route({"1.0": (1000, [bad.endpoint()])}, service="stuck", port=taken)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # even one that would share it
        holder.bind(("127.0.0.1", taken))
        holder.listen()

        for seconds in (5.0, LOOK_SECONDS):  # at first Envoy has yet to find it out
            monkeypatch.setattr("deployments.edge.envoy.LOOK_SECONDS", seconds)
            with pytest.raises(EdgeRefused) as refusal:
                world.edge.apply([fine, stuck])
            assert str(refusal.value) == (
                f"Port {taken}, where the edge should answer for stuck, is in use by another program. "
                "Stop that program, or give the service another port at the edge."
            )
        until("the other is in force", lambda: "web" in world.edge.read_back())
        assert "stuck" not in world.edge.read_back()

    world.apply(fine, stuck)
    assert world.client(taken).get().instance == bad.name


def test_services_that_want_the_same_are_told_apart(world: World) -> None:
    instance = world.instance("1.0")
    first = world.route({"1.0": (1000, [instance.endpoint()])}, service="a", prefix="/x")
    second = world.route({"1.0": (1000, [instance.endpoint()])}, service="b", prefix="/x")

    with pytest.raises(EdgeRefused, match="b and a both want /x on port"):
        world.edge.apply([second, first])

    until("the first is in force", lambda: set(world.edge.read_back()) == {"a"})


def test_an_instance_without_an_address_is_told_and_left_out(world: World) -> None:
    good = world.instance("1.0")
    route = world.route({"1.0": (1000, [good.endpoint(), Endpoint("lost", "nowhere.example", 80)])})

    with pytest.raises(EdgeRefused, match=r"nowhere\.example, which is no IP address"):
        world.edge.apply([route])

    until("the other answers", lambda: world.healthy() == {"1.0": 1})


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    edge = current_edge({"ZANTARA_DATA_DIR": str(tmp_path), "ZANTARA_EDGE_DIR": str(tmp_path / "file" / "edge")})

    for call in (edge.check, edge.prepare, lambda: edge.apply([])):
        with pytest.raises(EdgeRefused, match=r"edge cannot be written .* or set ZANTARA_EDGE_DIR"):
            call()


def test_an_envoy_that_is_not_there_is_told(tmp_path: Path) -> None:
    edge = current_edge({"ZANTARA_DATA_DIR": str(tmp_path)})

    for call in (edge.check, edge.read_back, lambda: edge.counters("web")):
        with pytest.raises(EdgeUnavailable, match="ZANTARA_EDGE_ADMIN_SOCKET"):
            call()


def test_an_edge_that_runs_passes_its_check(world: World) -> None:
    world.edge.check()


def test_a_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    long = str(tmp_path / ("x" * 110))
    with pytest.raises(EdgeRefused, match="longer than 107 bytes"):
        current_edge({"ZANTARA_DATA_DIR": str(tmp_path), "ZANTARA_EDGE_ADMIN_SOCKET": long}).prepare()

    edge = current_edge({"ZANTARA_DATA_DIR": long})  # the default goes where Redis's socket goes
    assert len(str(edge.settings.admin_socket)) <= 107


@pytest.mark.parametrize("release", ["1.0", "a~b", "x%2E", "v2+b_c-d", "1.0.0+20261127.1"])
def test_names_of_releases_come_back(release: str) -> None:
    assert envoy_names.release_of(envoy_names.token(release)) == release
    assert not {".", "%", "/"} & set(envoy_names.token(release))
    assert envoy_names.split_cluster(envoy_names.cluster_name("web", release)) == ("web", release)
