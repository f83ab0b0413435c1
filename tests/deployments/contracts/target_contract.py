"""What the engine relies on, whatever kind of target it speaks to. Each kind's tests inherit this class."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controlplane.kernel import clock
from controlplane.kernel.errors import LeaseLost, Refused
from deployments.errors import CannotStart
from deployments.targets import process
from deployments.targets.base import InstanceSpec, Seen, Target

PROGRAM = Path(__file__).parents[1] / "targets" / "program.py"
SECRET = "s3cret-Value/of+this-test"

#: Run by another process: ensures the instance of the specification on its standard input, says so, waits to be killed.
STARTER = """
import importlib, json, sys, time
from pathlib import Path
from deployments.targets.base import InstanceSpec
given = json.load(sys.stdin)
module, name = given.pop("target")
root = Path(given.pop("root"))
checkout = given.pop("checkout")
target = getattr(importlib.import_module(module), name)(root)
target.ensure(InstanceSpec(**given, checkout=Path(checkout) if checkout else None))
print("started", flush=True)
time.sleep(600)
"""


class World:
    """One kind of target with what its instances need. ``root`` is where it keeps what it knows."""

    target: Target
    root: Path

    def settings(self, *arguments: str, **more: Any) -> dict[str, Any]:
        """The settings of an instance that runs the tests' program with these arguments."""
        raise NotImplementedError

    def spec(self, *arguments: str, **more: Any) -> InstanceSpec:
        raise NotImplementedError

    def kill(self, seen: Seen) -> None:
        """SIGKILL from outside, as an operator would."""
        raise NotImplementedError

    def find(self, spec: InstanceSpec) -> list[Seen]:
        return list(self.target.find(spec.service, spec.settings))


def eventually(what: Callable[[], Any], *, seconds: float = 30) -> Any:
    """What it gives, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def ask(seen: Seen) -> dict[str, Any]:
    """What the instance tells of itself; waits until it listens."""

    def answer() -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"http://{seen.host}:{seen.port}/", timeout=5) as response:
                told: dict[str, Any] = json.load(response)
                return told
        except OSError:
            return None

    found: dict[str, Any] = eventually(answer)
    return found


class TargetContract:
    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    @staticmethod
    def ended(world: World, spec: InstanceSpec) -> Seen:
        found: Seen = eventually(lambda: next((s for s in world.find(spec) if not s.running), None))
        return found

    @staticmethod
    def said(world: World, seen: Seen, spec: InstanceSpec, text: str) -> str:
        """Its log, once the text is in it."""

        def log() -> str:
            tail = world.target.log_tail(seen, spec.settings)
            return tail if text in tail else ""

        found: str = eventually(log)
        return found

    def test_an_instance_starts_and_answers_with_what_it_was_given(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ZANTARA_SECRET_KEY", "the control plane's own")
        spec = replace(world.spec("serve"), environ={"COLOUR": "blue", "WHO": "{name}", "BRACES": '{"a": {}}'})
        seen = world.target.ensure(spec)
        assert (seen.service, seen.release, seen.slot, seen.name, seen.running) == (
            spec.service, spec.release, spec.slot, spec.name, True
        )  # fmt: skip
        told = ask(seen)["environ"]
        assert (told["COLOUR"], told["WHO"], told["BRACES"]) == ("blue", spec.name, '{"a": {}}')
        assert told["TOKEN"] == SECRET
        assert told["PORT"] == told["ZANTARA_SERVICE_PORT"]
        assert told["ZANTARA_RELEASE"] == spec.release
        assert told["ZANTARA_INSTANCE"].split("/")[0] == spec.name
        assert "ZANTARA_SECRET_KEY" not in told
        [found] = world.find(spec)
        assert (found.handle, found.port, found.host, found.running) == (seen.handle, seen.port, "127.0.0.1", True)
        assert found.exit_code is None
        assert found.started_at is not None
        assert abs(clock.now() - found.started_at) < timedelta(minutes=5)
        assert found.memory_bytes is not None
        assert 1 << 20 < found.memory_bytes < 1 << 30

    def test_ensuring_twice_starts_once(self, world: World) -> None:
        spec = world.spec("serve")
        first = world.target.ensure(spec)
        pid = ask(first)["pid"]
        second = world.target.ensure(spec)
        assert (second.handle, second.port) == (first.handle, first.port)
        assert ask(second)["pid"] == pid
        assert len(world.find(spec)) == 1

    def test_two_starters_at_the_same_moment_start_one(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "_OTHER_SECONDS", 30.0)  # how long one may wait for what another has begun
        spec = world.spec("serve")
        seen: list[Seen] = []
        together = threading.Barrier(3)

        def start() -> None:
            together.wait()
            seen.append(world.target.ensure(spec))

        threads = [threading.Thread(target=start) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 3
        assert {json.dumps(dict(one.handle), sort_keys=True) for one in seen} == {
            json.dumps(dict(world.find(spec)[0].handle), sort_keys=True)
        }

    def test_the_death_of_the_starter_harms_nothing_and_another_process_adopts(self, world: World) -> None:
        spec = world.spec("serve")
        starter = start_elsewhere(world, spec)
        [seen] = world.find(spec)
        pid = ask(seen)["pid"]
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait()
        assert ask(seen)["pid"] == pid
        assert world.target.ensure(spec).handle == seen.handle
        assert [one.handle for one in world.find(spec)] == [seen.handle]

    def test_one_that_ended_says_how_and_is_started_again(self, world: World) -> None:
        spec = world.spec("exit", "3")
        world.target.ensure(spec)
        seen = self.ended(world, spec)
        assert (seen.exit_code, seen.oom_killed, seen.running) == (3, False, False)
        again = world.target.ensure(replace(spec, generation=spec.generation + 1))
        assert again.handle != seen.handle
        assert self.ended(world, spec).exit_code == 3
        assert len(world.find(spec)) == 1

    def test_one_that_was_killed_from_outside_is_seen_as_killed(self, world: World) -> None:
        spec = world.spec("serve")
        seen = world.target.ensure(spec)
        ask(seen)
        world.kill(seen)
        ended = self.ended(world, spec)
        assert (ended.exit_code, ended.oom_killed) == (137, False)

    def test_one_that_takes_more_memory_than_it_may_is_killed_for_it(self, world: World) -> None:
        spec = world.spec("grow", memory_mb=64)
        world.target.ensure(spec)
        ended = self.ended(world, spec)
        assert (ended.exit_code, ended.oom_killed) == (137, True)

    def test_asked_to_stop_it_ends_by_itself(self, world: World) -> None:
        spec = world.spec("serve")
        seen = world.target.ensure(spec)
        ask(seen)
        world.target.stop(seen, spec.settings, grace_seconds=60, asked_at=None)
        ended = self.ended(world, spec)
        assert (ended.exit_code, ended.oom_killed) == (0, False)
        world.target.stop(ended, spec.settings, grace_seconds=0, asked_at=clock.now())
        assert self.ended(world, spec).exit_code == 0

    def test_a_stubborn_one_is_asked_once_and_killed_when_its_time_is_over_and_not_before(self, world: World) -> None:
        spec = world.spec("stubborn")
        seen = world.target.ensure(spec)
        ask(seen)
        asked_at = clock.now()
        for _ in range(3):
            world.target.stop(seen, spec.settings, grace_seconds=600, asked_at=asked_at)
        self.said(world, seen, spec, "asked to end 1")
        ask(seen)
        assert "asked to end 2" not in world.target.log_tail(seen, spec.settings)
        world.target.stop(seen, spec.settings, grace_seconds=600, asked_at=asked_at - timedelta(seconds=601))
        ended = self.ended(world, spec)
        assert (ended.exit_code, ended.oom_killed) == (137, False)

    def test_only_what_has_ended_is_forgotten_and_its_log_stays(self, world: World) -> None:
        spec = world.spec("say", "what", "it", "said")
        seen = world.target.ensure(spec)
        self.said(world, seen, spec, "what it said")
        with pytest.raises(Refused, match="still runs"):
            world.target.forget(seen, spec.settings)
        ask(seen)
        world.target.stop(seen, spec.settings, grace_seconds=0, asked_at=clock.now() - timedelta(seconds=1))
        ended = self.ended(world, spec)
        world.target.forget(ended, spec.settings)
        assert world.find(spec) == []
        assert "what it said" in world.target.log_tail(ended, spec.settings)
        world.target.forget(ended, spec.settings)
        world.target.stop(ended, spec.settings, grace_seconds=0, asked_at=None)

    def test_its_log_shows_no_secret(self, world: World) -> None:
        spec = world.spec("say", "it", "knows", "$TOKEN", "and", "password=hunter22", "end")
        seen = world.target.ensure(spec)
        log = self.said(world, seen, spec, " end")
        assert "it knows *** and password=*** end" in log
        assert SECRET not in log
        assert SECRET not in repr(world.find(spec))
        world.target.stop(seen, spec.settings, grace_seconds=0, asked_at=clock.now() - timedelta(seconds=1))
        ended = self.ended(world, spec)
        assert SECRET not in world.target.log_tail(ended, spec.settings)
        world.target.forget(ended, spec.settings)
        assert SECRET not in world.target.log_tail(ended, spec.settings)

    def test_the_end_of_a_long_log_is_shown_from_the_beginning_of_a_line(self, world: World) -> None:
        spec = world.spec("say", *(f"word-{number}\n" for number in range(300)), "end")
        seen = world.target.ensure(spec)
        self.said(world, seen, spec, " end")
        tail = world.target.log_tail(seen, spec.settings, most_bytes=100)
        assert len(tail.encode()) <= 100
        assert tail.splitlines()[0].startswith(" word-")
        assert tail.splitlines()[-1] == " end"

    def test_a_worker_that_was_away_starts_nothing(self, world: World) -> None:
        spec = replace(world.spec("exit", "0"), generation=7)
        world.target.ensure(spec)
        seen = self.ended(world, spec)
        with pytest.raises(LeaseLost):
            world.target.ensure(replace(spec, generation=6))
        assert [one.handle for one in world.find(spec)] == [seen.handle]
        world.target.forget(seen, spec.settings)
        with pytest.raises(LeaseLost):
            world.target.ensure(replace(spec, generation=6))
        assert world.find(spec) == []

    def test_a_program_that_is_not_there_is_refused_and_leaves_nothing(self, world: World) -> None:
        settings = {**world.spec("serve").settings, "command": "no-such-program --port {port}"}
        spec = replace(world.spec("serve"), settings=settings)
        with pytest.raises(CannotStart, match="no-such-program") as caught:
            world.target.ensure(spec)
        assert caught.value.remedy
        assert world.find(spec) == []

    def test_services_do_not_see_each_other(self, world: World) -> None:
        one = world.spec("serve")
        other = replace(one, service=f"{one.service}-two", name=f"{one.name}-two")
        world.target.ensure(one)
        world.target.ensure(other)
        assert [seen.name for seen in world.find(one)] == [one.name]
        assert [seen.name for seen in world.find(other)] == [other.name]
        assert list(world.target.find("nobody", one.settings)) == []

    @pytest.mark.parametrize(
        ("wrong", "why"),
        [
            ({"colour": "blue"}, "has no setting 'colour'"),
            ({"command": "run {prt}"}, "placeholder {prt}"),
            ({"command": 'run "half'}, "cannot be split"),
            ({"command": ["run"]}, "is no text"),
            ({"memory_mb": "much"}, "no whole number"),
            ({"memory_mb": 1}, "must be"),
            ({"memory_mb": True}, "no whole number"),
            ({"stop_signal": "KILL"}, "is none of"),
            ({"log_mb": 0}, "must be"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_wrong_settings_are_refused(self, world: World, wrong: Mapping[str, Any], why: str) -> None:
        with pytest.raises(Refused, match=why) as caught:
            world.target.check_settings({**world.spec("serve").settings, **wrong})
        assert caught.value.remedy

    def test_settings_are_complete_once_checked(self, world: World) -> None:
        given = world.spec("serve").settings
        checked = world.target.check_settings(given)
        assert set(given) < set(checked)
        assert world.target.check_settings(checked) == checked
        json.dumps(checked)


def start_elsewhere(world: World, spec: InstanceSpec, **environ: str) -> subprocess.Popen[str]:
    """Another process, in a session of its own, that has ensured the instance and lives on."""
    order = {
        "target": (type(world.target).__module__, type(world.target).__name__),
        "root": str(world.root),
        "service": spec.service, "release": spec.release, "slot": spec.slot, "name": spec.name,
        "settings": dict(spec.settings), "environ": dict(spec.environ), "secret_environ": dict(spec.secret_environ),
        "checkout": str(spec.checkout) if spec.checkout else None, "image": spec.image, "generation": spec.generation,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[3], start_new_session=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "controlplane.settings", **environ},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        assert environ or process.stdout.readline() == "started\n"
    return process
