"""Local processes: which of them are whose, and on which ports they listen."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.monitoring.processes import lives, start_of
from deployments.errors import CannotStart
from tests.deployments.contracts.target_contract import SECRET, ask, eventually

from .conftest import ProcessWorld

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told apart by /proc")


@pytest.fixture
def world(process_world: ProcessWorld) -> ProcessWorld:
    return process_world


class Stranger:
    """A process that is none of ours, whose number a mark happens to hold."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stranger() -> Any:
    made = Stranger()
    yield made
    made.close()


def rewrite(world: ProcessWorld, spec: Any, **changes: Any) -> None:
    path = world.places(spec).mark(spec.name)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_instance_leads_a_session_of_its_own_and_belongs_to_nobody(world: ProcessWorld) -> None:
    spec = world.spec("serve")
    seen = world.target.ensure(spec)
    mark = world.mark(spec)
    assert os.getsid(mark.child[0]) == mark.keeper[0] != os.getsid(0)
    assert psutil.Process(mark.child[0]).ppid() == mark.keeper[0]
    assert psutil.Process(mark.keeper[0]).ppid() != os.getpid()
    told = ask(seen)
    assert told["cwd"] == str(world.checkout)
    assert Path(f"/proc/{mark.child[0]}/fd/0").resolve() == Path("/dev/null")
    opened = {Path(f"/proc/{mark.child[0]}/fd/{number}").readlink() for number in ("1", "2")}
    assert opened == {world.places(spec).log(spec.name)}


def test_what_is_kept_on_disk_is_for_this_user_alone_and_holds_no_secret(world: ProcessWorld) -> None:
    spec = world.spec("serve")
    ask(world.target.ensure(spec))
    files = [path for path in world.root.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in world.root.rglob("*") if path.is_dir()} == {0o700}
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []
    commands = [" ".join(one.cmdline()) for one in world.processes()]
    assert [line for line in commands if SECRET in line] == []


def test_a_stranger_with_the_commands_number_is_neither_seen_nor_signalled(
    world: ProcessWorld, stranger: Stranger
) -> None:
    spec = world.spec("exit", "0")
    seen = world.target.ensure(spec)
    eventually(lambda: not world.find(spec)[0].running)
    pid = stranger.process.pid
    # As if the keeper had been killed before it could note the end, and the numbers had been given away since.
    data = json.loads(world.places(spec).mark(spec.name).read_text())
    del data["ended_at"]
    started = start_of(pid)
    assert started is not None
    data |= {"child": {"pid": pid, "started": started - 1}, "keeper": {"pid": pid, "started": started - 1}}
    world.places(spec).mark(spec.name).write_text(json.dumps(data))
    [found] = world.find(spec)
    assert (found.running, found.exit_code) == (False, 0)
    world.target.stop(seen, spec.settings, grace_seconds=0, asked_at=found.started_at)
    world.mark(spec).kill()
    assert lives(pid, started)
    world.target.ensure(replace(spec, settings=world.settings("serve")))
    assert world.find(spec)[0].running
    assert lives(pid, started)


def test_after_a_reboot_nothing_runs_although_numbers_and_times_fit(world: ProcessWorld, stranger: Stranger) -> None:
    spec = world.spec("exit", "0")
    world.target.ensure(spec)
    eventually(lambda: not world.find(spec)[0].running)
    pid = stranger.process.pid
    me = {"pid": pid, "started": start_of(pid)}
    rewrite(world, spec, boot="another", child=me, keeper=me)
    assert not world.find(spec)[0].running
    world.mark(spec).kill()
    world.mark(spec).ask_to_end(signal.SIGTERM)
    assert stranger.process.poll() is None


def test_half_a_mark_is_no_mark(world: ProcessWorld) -> None:
    spec = world.spec("serve")
    world.places(spec).make()
    world.places(spec).mark(spec.name).write_text('{"service": "shop", "name":')
    assert world.find(spec) == []
    assert world.target.ensure(spec).running


def test_an_instance_keeps_its_port_over_restarts(world: ProcessWorld) -> None:
    spec = world.spec("serve")
    first = world.target.ensure(spec)
    ask(first)
    assert 20000 <= (first.port or 0) <= 29999
    world.kill(first)
    eventually(lambda: not world.find(spec)[0].running)
    second = world.target.ensure(spec)
    assert second.port == first.port
    ask(second)


def test_a_port_that_somebody_listens_on_is_passed_over(world: ProcessWorld) -> None:
    spec = world.spec("serve")
    first = world.target.ensure(spec)
    ask(first)
    world.kill(first)
    eventually(lambda: not world.find(spec)[0].running)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("0.0.0.0", first.port or 0))
        other.listen()
        second = world.target.ensure(spec)
        assert second.port not in (None, first.port)
        ask(second)


def test_a_taken_port_is_refused_in_one_sentence_and_nothing_is_left(world: ProcessWorld) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        spec = world.spec("serve", port_range=str(port))
        with pytest.raises(CannotStart) as caught:
            world.target.ensure(spec)
    assert caught.value.message == f"Port {port} is taken by {psutil.Process().name()} (pid {os.getpid()})."
    assert "port_range" in caught.value.remedy
    assert world.find(spec) == []
    assert world.processes() == []
    assert world.target.ensure(spec).port == port


def test_two_instances_never_share_a_port(world: ProcessWorld, free_port: Any) -> None:
    first = free_port()
    spec = world.spec("serve", port_range=f"{first}-{first + 30}")
    ports = [world.target.ensure(replace(spec, slot=slot, name=f"shop-{slot}")).port for slot in range(6)]
    assert len(set(ports)) == 6


def test_instances_of_two_data_directories_that_start_at_once_never_share_a_port(
    world: ProcessWorld, tmp_path: Path, free_port: Any
) -> None:
    """Not even before either of them listens: these never do."""
    (tmp_path / "other").mkdir()
    other, first = ProcessWorld(tmp_path / "other"), free_port()
    try:
        seen = [one.target.ensure(one.spec("sleep", port_range=f"{first}-{first + 30}")) for one in (world, other)]
        assert len({one.port for one in seen}) == 2
    finally:
        other.close()
