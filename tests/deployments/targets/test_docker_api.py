"""What the docker target asks of the engine and makes of its answers; a fake one, so that faults come when wanted."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from controlplane.kernel.errors import Refused
from deployments.errors import CannotStart, TargetUnavailable
from deployments.targets import docker
from deployments.targets.base import InstanceSpec
from deployments.targets.docker import DockerTarget

from .fake_engine import FakeEngine

ID = "sha256:" + "ab" * 32


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    made = FakeEngine(tmp_path / "docker.sock")
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> DockerTarget:
    return DockerTarget(tmp_path / "deployments")


@pytest.fixture
def spec(engine: FakeEngine) -> InstanceSpec:
    return InstanceSpec(
        service="shop", release="1+a", slot=2, name="shop-1+a-2", image="shop:1", generation=5,
        settings={"base_url": engine.url}, environ={"COLOUR": "blue"}, secret_environ={"TOKEN": "s3cret-token"},
    )  # fmt: skip


def test_a_container_is_made_with_labels_limits_and_no_restart_by_the_engine(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    settings = {
        **spec.settings, "memory_mb": 256, "cpus": "0.5", "user": "1000", "log_mb": 3, "volumes": ["/srv/site:/site"],
        "command": "serve --port {port} --as {name}", "network": "inner",
    }  # fmt: skip
    seen = target.ensure(replace(spec, settings=settings))
    [made] = engine.containers.values()
    assert made["Name"] == "/shop-1_a-2"
    assert made["Config"]["Labels"] == {
        "zantara.service": "shop", "zantara.release": "1+a", "zantara.slot": "2", "zantara.name": "shop-1+a-2",
        "zantara.generation": "5", "zantara.secrets": "TOKEN",
    }  # fmt: skip
    assert made["Config"]["Cmd"] == ["serve", "--port", "8080", "--as", "shop-1+a-2"]
    assert made["Config"]["User"] == "1000"
    assert sorted(made["Config"]["Env"]) == [
        "COLOUR=blue", "PORT=8080", "TOKEN=s3cret-token", "ZANTARA_INSTANCE=shop-1+a-2", "ZANTARA_RELEASE=1+a",
        "ZANTARA_SERVICE_PORT=8080",
    ]  # fmt: skip
    host = made["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (256 << 20, 256 << 20, 500_000_000)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "3m", "max-file": "2"}}
    assert host["Binds"] == ["/srv/site:/site:ro"]
    assert host["NetworkMode"] == "inner"
    assert host["PortBindings"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (seen.name, seen.slot, seen.host, seen.port) == ("shop-1+a-2", 2, "127.0.0.1", 40001)
    assert seen.started_at == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)


def test_one_created_by_another_worker_at_the_same_moment_is_adopted(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    engine.before_create = engine.create
    seen = target.ensure(spec)
    assert seen.running
    assert len(engine.containers) == 1


def test_one_that_was_created_and_never_started_is_started(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    """The starter was killed in between."""
    engine.fail["POST", "/containers/.*/start"] = (503, "engine is going down")
    with pytest.raises(TargetUnavailable, match="engine is going down"):
        target.ensure(spec)
    [found] = target.find("shop", spec.settings)
    assert (found.running, found.exit_code, found.port) == (False, None, None)
    assert target.ensure(spec).running
    assert len(engine.containers) == 1


def test_a_start_that_the_engine_refuses_says_why_and_leaves_nothing(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    engine.fail["POST", "/containers/.*/start"] = (500, "driver failed: Bind for 127.0.0.1:80 failed:\n port is taken.")
    with pytest.raises(CannotStart) as caught:
        target.ensure(spec)
    assert caught.value.message == (
        "shop-1+a-2 cannot be started: driver failed: Bind for 127.0.0.1:80 failed: port is taken."
    )
    assert caught.value.remedy
    assert engine.containers == {}


def test_a_missing_image_is_refused_and_nothing_is_pulled(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    for act in (target.check, target.ensure):
        with pytest.raises(CannotStart) as caught:
            act(replace(spec, image="shop:2"))
        assert caught.value.message == "The Docker engine has no image shop:2."
        assert "docker load" in caught.value.remedy
    with pytest.raises(CannotStart, match="has no image"):
        target.ensure(replace(spec, image=""))
    assert engine.containers == {}
    assert [asked for asked in engine.asked if asked[1].startswith("/images/create")] == []


def test_a_digest_stands_behind_the_repository_or_is_a_local_images_id(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    other = "sha256:" + "cd" * 32
    engine.images = {"local": ID, f"shop@{ID}": other}
    target.ensure(replace(spec, image=f"shop@{ID}"))
    del engine.images[f"shop@{ID}"]
    target.ensure(replace(spec, release="2", name="other", image=f"shop@{ID}"))
    assert [one["Config"]["Image"] for one in engine.containers.values()] == [other, ID]


def test_a_release_stays_the_image_that_it_first_was_though_its_tag_moves(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    first = engine.images["shop:1"]
    target.check(spec)
    target.ensure(spec)
    engine.images = {"shop:1": ID, "shop:old": first}
    target.ensure(replace(spec, name="second", slot=1))
    assert [one["Config"]["Image"] for one in engine.containers.values()] == [first, first]
    target.ensure(replace(spec, release="2", name="third"))
    assert list(engine.containers.values())[2]["Config"]["Image"] == ID
    del engine.images["shop:old"]
    with pytest.raises(CannotStart, match="as it first was"):
        target.ensure(replace(spec, name="fourth"))
    assert len(engine.containers) == 3


def test_a_name_that_is_somebody_elses_is_left_alone(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    foreign = engine.create("shop-1_a-2", {"Labels": {"owner": "them"}, "Env": []})
    engine.start(foreign)
    with pytest.raises(CannotStart, match="not ours"):
        target.ensure(spec)
    seen = replace(_seen(target, engine, spec), name="shop-1+a-2")
    target.stop(seen, spec.settings, grace_seconds=0, asked_at=None)
    target.forget(seen, spec.settings)
    assert foreign["State"]["Running"]
    assert foreign["Id"] in engine.containers


def _seen(target: DockerTarget, engine: FakeEngine, spec: InstanceSpec) -> Any:
    return target.ensure(replace(spec, name="one-of-ours"))


def test_the_engine_away_or_failing_is_unavailable_whatever_is_asked(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = target.ensure(spec)
    engine.fail["GET", "/containers/json"] = (500, "disk is full")
    with pytest.raises(TargetUnavailable, match="disk is full"):
        target.find("shop", spec.settings)
    engine.fail["POST", "/containers/.*/kill"] = (500, "cannot kill")
    with pytest.raises(TargetUnavailable, match="cannot kill"):
        target.stop(seen, spec.settings, grace_seconds=9, asked_at=None)
    away = {"base_url": f"unix://{tmp_path}/nobody.sock"}
    acts = (
        lambda: target.check(replace(spec, settings=away)),
        lambda: target.ensure(replace(spec, settings=away)),
        lambda: target.find("shop", away),
        lambda: target.stop(seen, away, grace_seconds=9, asked_at=None),
        lambda: target.forget(seen, away),
        lambda: target.log_tail(seen, away),
    )
    for act in acts:
        with pytest.raises(TargetUnavailable, match="does not answer") as caught:
            act()
        assert "base_url" in caught.value.remedy
    assert len(engine.containers) == 1


def test_an_engine_that_hangs_is_given_up_on(
    target: DockerTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "TIMEOUT_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        deaf.listen()
        with pytest.raises(TargetUnavailable):
            target.find("shop", {"base_url": f"unix://{tmp_path}/deaf.sock"})


def test_what_has_ended_says_how(engine: FakeEngine, target: DockerTarget, spec: InstanceSpec) -> None:
    target.ensure(spec)
    [made] = engine.containers.values()
    [seen] = target.find("shop", spec.settings)
    assert (seen.running, seen.memory_bytes, seen.exit_code) == (True, 4000, None)
    engine.end(made, 137)
    made["State"]["OOMKilled"] = True
    [seen] = target.find("shop", spec.settings)
    assert (seen.running, seen.exit_code, seen.oom_killed, seen.port) == (False, 137, True, None)


def test_the_images_own_stop_signal_is_used_unless_the_service_has_one(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    signals = []
    for wish, own in (("", None), ("", "SIGQUIT"), ("int", "SIGQUIT")):
        settings = {**spec.settings, "stop_signal": wish}
        seen = target.ensure(replace(spec, settings=settings))
        [made] = engine.containers.values()
        made["Config"]["StopSignal"] = own
        target.stop(seen, settings, grace_seconds=9, asked_at=None)
        signals += made["signals"]
        target.forget(seen, settings)
    assert signals == ["SIGTERM", "SIGQUIT", "SIGINT"]


def test_the_containers_own_address_is_used_where_nothing_is_published(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    seen = target.ensure(replace(spec, settings={**spec.settings, "publish_host": "none", "port": 9000}))
    [made] = engine.containers.values()
    assert not made["HostConfig"].get("PortBindings")
    assert (seen.host, seen.port) == ("172.17.0.5", 9000)


def test_half_labelled_containers_are_not_instances(
    engine: FakeEngine, target: DockerTarget, spec: InstanceSpec
) -> None:
    engine.create("by-hand", {"Labels": {"zantara.service": "shop"}, "Env": []})
    assert target.find("shop", spec.settings) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"base_url": "http://x"}, "no address of an engine"),
        ({"network": "host"}, "network of their own"),
        ({"network": "container:x"}, "network of their own"),
        ({"port": 0}, "must be 1 to 65535"),
        ({"publish_host": "0.0.0.0"}, "one address"),
        ({"cpus": "many"}, "no number"),
        ({"volumes": "/a:/b"}, "no list"),
        ({"volumes": ["/a"]}, "no mount"),
        ({"volumes": ["a:/b"]}, "no mount"),
        ({"volumes": ["/a:/b:exec"]}, "no mount"),
        ({"volumes": ["/a/../b:/b"]}, "not allowed"),
        ({"volumes": ["/:/machine"]}, "engine's socket"),
        ({"volumes": ["/var/run/docker.sock:/s"]}, "engine's socket"),
        ({"command": "run {python}"}, "placeholder {python}"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_of_containers_are_refused(target: DockerTarget, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        target.check_settings(wrong)
    assert caught.value.remedy


def test_the_control_planes_own_directory_is_never_mounted(target: DockerTarget, settings: Any, tmp_path: Path) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path / "data"
    for host in (tmp_path / "data", tmp_path / "data" / "secrets", tmp_path):
        with pytest.raises(Refused, match="secrets of the control plane"):
            target.check_settings({"volumes": [f"{host}:/x"]})
    assert target.check_settings({"volumes": [f"{tmp_path}/other:/x:rw"]})["volumes"] == (f"{tmp_path}/other:/x:rw",)


class Slow:
    """An engine that shows a container only when it has been asked for it so many times."""

    def __init__(self, times: float) -> None:
        self.times, self.asked = times, 0

    def inspect_container(self, name: str) -> dict[str, str]:
        self.asked += 1
        if self.asked <= self.times:
            raise NotFound(f"No such container: {name}")
        return {"Id": name}


def test_a_container_that_another_worker_still_creates_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(2)
    assert (docker._appearing(slow, "shop-1"), slow.asked) == ({"Id": "shop-1"}, 3)  # type: ignore[arg-type]
    monkeypatch.setattr(docker, "CREATED_WITHIN_SECONDS", 0.05)
    with pytest.raises(TargetUnavailable, match="Somebody else creates shop-1, and it is not there yet"):
        docker._appearing(Slow(float("inf")), "shop-1")  # type: ignore[arg-type]
