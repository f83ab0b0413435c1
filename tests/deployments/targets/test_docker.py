"""Containers of a real engine keep the contract of targets."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import CannotStart
from deployments.targets.base import InstanceSpec, Seen
from deployments.targets.docker import DockerTarget
from tests.deployments.contracts.target_contract import PROGRAM, SECRET, TargetContract, World, ask, eventually
from tests.docker_engine import IMAGE, Engine

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("docker")]


class DockerWorld(World):
    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.root, self.program = engine, folder / "deployments", folder / "program"
        self.program.mkdir()
        self.program.chmod(0o755)
        shutil.copy(PROGRAM, self.program / "program.py")
        self.target = DockerTarget(self.root)

    def settings(self, *arguments: str, **more: Any) -> dict[str, Any]:
        words = " ".join(f"'{word}'" for word in ("/program/program.py", *arguments))
        return {
            "base_url": self.engine.host, "command": f"python3 -u {words}", "port": 3000,
            "volumes": [f"{self.program}:/program"], **more,
        }  # fmt: skip

    def spec(self, *arguments: str, **more: Any) -> InstanceSpec:
        return InstanceSpec(
            service="shop", release="1.0+a", slot=0, name="shop-1.0+a-0", settings=self.settings(*arguments, **more),
            secret_environ={"TOKEN": SECRET, "EMPTY": ""}, image=IMAGE, generation=3,
        )  # fmt: skip

    def kill(self, seen: Seen) -> None:
        pid = int(self.engine.docker("inspect", "-f", "{{.State.Pid}}", seen.handle["container"]))
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        left = self.engine.docker("ps", "-aq", "--filter", "label=zantara.service").split()
        if left:
            self.engine.docker("rm", "-f", *left)


@pytest.fixture
def world(docker_engine: Engine, tmp_path: Path) -> Iterator[DockerWorld]:
    made = DockerWorld(docker_engine, tmp_path)
    yield made
    made.close()


class TestDockerTarget(TargetContract):
    @pytest.fixture
    def world(self, docker_engine: Engine, tmp_path: Path) -> Iterator[DockerWorld]:
        made = DockerWorld(docker_engine, tmp_path)
        yield made
        made.close()


def test_everything_is_known_from_labels_alone(world: DockerWorld, tmp_path: Path) -> None:
    spec = world.spec("serve")
    seen = world.target.ensure(spec)
    ask(seen)  # before it listens it would not hear that it is asked to end
    other = DockerTarget(tmp_path / "elsewhere")
    [found] = other.find(spec.service, spec.settings)
    assert (found.handle, found.port, found.release, found.slot) == (seen.handle, seen.port, "1.0+a", 0)
    other.stop(found, spec.settings, grace_seconds=60, asked_at=None)
    assert eventually(lambda: next((s for s in world.find(spec) if not s.running), None)).exit_code == 0


def test_an_image_is_run_by_its_id_though_its_tag_moves(world: DockerWorld) -> None:
    identity = world.engine.docker("image", "inspect", "-f", "{{.Id}}", IMAGE).strip()
    spec = replace(world.spec("serve"), image=f"shop-of-this-test@{identity}")
    seen = world.target.ensure(spec)
    assert world.engine.docker("inspect", "-f", "{{.Image}}", seen.handle["container"]).strip() == identity
    ask(seen)


def test_limits_and_log_driver_are_those_of_the_settings(world: DockerWorld) -> None:
    spec = world.spec("serve", memory_mb=128, cpus=0.5, log_mb=2)
    seen = world.target.ensure(spec)
    host = json.loads(world.engine.docker("inspect", seen.handle["container"]))[0]["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["RestartPolicy"]["Name"]) == (128 << 20, 500_000_000, "no")
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "2m", "max-file": "2"}}


def test_a_missing_image_is_refused(world: DockerWorld) -> None:
    with pytest.raises(CannotStart, match="has no image zantara-nowhere:1"):
        world.target.ensure(replace(world.spec("serve"), image="zantara-nowhere:1"))
    assert world.engine.docker("images", "-q", "zantara-nowhere").strip() == ""


def test_a_network_that_is_not_there_is_refused_and_leaves_nothing(world: DockerWorld) -> None:
    spec = world.spec("serve", network="no-such-network")
    with pytest.raises(CannotStart, match="no-such-network"):
        world.target.ensure(spec)
    assert world.find(spec) == []
