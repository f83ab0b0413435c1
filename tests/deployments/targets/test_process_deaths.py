"""The keeper, the starter or the instance dies at any moment."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.kernel.errors import LeaseLost
from controlplane.monitoring.processes import start_of
from deployments.errors import TargetUnavailable
from deployments.targets import keeper, process
from deployments.targets.process import ProcessTarget
from tests.deployments.contracts.target_contract import ask, eventually

from .conftest import ProcessWorld

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told apart by /proc")


@pytest.fixture
def world(process_world: ProcessWorld) -> ProcessWorld:
    return process_world


def test_the_keeper_killed_leaves_an_instance_that_is_adopted_and_can_be_stopped(world: ProcessWorld) -> None:
    spec = world.spec("family")
    seen = world.target.ensure(spec)
    pid = ask(seen)["pid"]
    mark = world.mark(spec)
    os.kill(mark.keeper[0], signal.SIGKILL)
    eventually(lambda: not mark.keeper_lives)
    [found] = world.find(spec)
    assert (found.running, found.handle, found.port) == (True, seen.handle, seen.port)
    assert world.target.ensure(spec).handle == seen.handle
    assert ask(found)["pid"] == pid
    world.target.stop(found, spec.settings, grace_seconds=60, asked_at=None)
    eventually(lambda: not world.find(spec)[0].running)
    assert world.find(spec)[0].exit_code is None
    assert "asked to end 1" in world.target.log_tail(found, spec.settings)
    assert world.target.ensure(spec).handle != seen.handle


def test_with_the_keeper_killed_a_stubborn_one_is_killed_too(world: ProcessWorld) -> None:
    spec = world.spec("stubborn")
    seen = world.target.ensure(spec)
    ask(seen)
    os.kill(world.mark(spec).keeper[0], signal.SIGKILL)
    world.target.stop(seen, spec.settings, grace_seconds=0, asked_at=seen.started_at)
    eventually(lambda: not world.find(spec)[0].running)
    assert not world.mark(spec).child_lives


def test_nothing_that_an_instance_started_outlives_it(world: ProcessWorld) -> None:
    spec = world.spec("family")
    seen = world.target.ensure(spec)
    ask(seen)
    mark = world.mark(spec)

    def sessions() -> set[int]:
        return {os.getsid(pid) for pid in keeper.family_of(mark.keeper[0])}

    eventually(lambda: len(sessions()) == 2)  # one of the two has made a session of its own
    family = keeper.family_of(mark.keeper[0])
    os.kill(mark.child[0], signal.SIGKILL)
    eventually(lambda: not world.find(spec)[0].running)
    assert [pid for pid in family if start_of(pid)] == []
    assert world.find(spec)[0].exit_code == 137


@pytest.mark.parametrize("moment", ["after_fork", "after_mark"])
def test_a_keeper_killed_while_it_starts_leaves_a_known_instance_or_none(
    world: ProcessWorld, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that kills itself at the moment; the program under test is the same otherwise."""
    text = process.KEEPER.read_text()
    place = '        write_mark(order["mark"], self.mark)\n        os.write(open_gate'
    assert place in text
    dies = "        os.kill(os.getpid(), signal.SIGKILL)\n"
    call, rest = place.split("\n")
    changed = f"{dies}{call}\n{rest}" if moment == "after_fork" else f"{call}\n{dies}{rest}"
    suicidal = world.root.parent / "keeper.py"
    suicidal.write_text(text.replace(place, changed))
    spec = world.spec("serve")
    monkeypatch.setattr(process, "KEEPER", suicidal)
    with pytest.raises(TargetUnavailable):
        world.target.ensure(spec)
    eventually(lambda: world.processes() == [])
    known = [] if moment == "after_fork" else [False]  # one that waits at its gate ends by itself
    eventually(lambda: [seen.running for seen in world.find(spec)] == known)
    monkeypatch.undo()
    assert ask(world.target.ensure(spec))["environ"]["PORT"]


def test_starters_killed_at_any_moment_leave_one_instance_or_none(
    world: ProcessWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_OTHER_SECONDS", 30.0)
    spec = world.spec("serve")
    for pause in (0.0, 0.002, 0.01, 0.02, 0.04):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                os.write(writer, b"1")
                world.target.ensure(spec)
            os._exit(0)
        os.read(reader, 1)
        time.sleep(pause)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    seen = world.target.ensure(spec)
    ask(seen)
    commands = [one for one in world.processes() if "program.py" in " ".join(one.cmdline())]
    assert [one.pid for one in commands] == [seen.handle["pid"]]


def test_a_paused_starter_that_wakes_later_starts_nothing(world: ProcessWorld) -> None:
    """The fence is looked at twice: by the starter, and by its keeper when it holds the lock."""
    spec = world.spec("serve")
    target = ProcessTarget(world.root)
    places = world.places(spec)
    places.make()
    places.raise_fence(spec.name, spec.generation)
    order = target._order(spec, places)
    places.raise_fence(spec.name, spec.generation + 1)
    assert process._start_keeper(spec, order) == {"fenced": spec.generation + 1}
    assert world.find(spec) == []
    with pytest.raises(LeaseLost):
        target.ensure(spec)


def test_an_old_fence_keeps_nobody_out(world: ProcessWorld) -> None:
    spec = replace(world.spec("serve"), generation=9)
    world.target.ensure(spec)
    path = world.places(spec).fence(spec.name)
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    assert world.target.ensure(replace(spec, generation=1)).running


def test_a_start_under_way_elsewhere_is_said_and_not_doubled(world: ProcessWorld) -> None:
    spec = world.spec("serve")
    places = world.places(spec)
    places.make()
    assert keeper.held(str(places.lock(spec.name))) is not None  # as a keeper that has not written its mark yet
    with pytest.raises(TargetUnavailable, match="another worker"):
        world.target.ensure(spec)
    assert world.processes() == []
