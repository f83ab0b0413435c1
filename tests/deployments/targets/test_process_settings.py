"""Limits, logs, commands and environments of local processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.kernel.errors import Refused
from deployments.errors import CannotStart, TargetUnavailable
from deployments.targets import keeper, process
from deployments.targets.places import Places
from deployments.targets.process import ProcessTarget
from tests.deployments.contracts.target_contract import ask, eventually, start_elsewhere

from .conftest import ProcessWorld

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told apart by /proc")


@pytest.fixture
def world(process_world: ProcessWorld) -> ProcessWorld:
    return process_world


def test_limits_are_the_commands_own(world: ProcessWorld) -> None:
    spec = world.spec("serve", open_files=99, nice=7, memory_mb=200)
    seen = world.target.ensure(spec)
    ask(seen)
    command = psutil.Process(seen.handle["pid"])
    assert command.rlimit(psutil.RLIMIT_NOFILE) == (99, 99)
    assert command.rlimit(psutil.RLIMIT_DATA) == (464 << 20, 464 << 20)
    assert command.nice() == 7
    assert psutil.Process(world.mark(spec).keeper[0]).nice() == psutil.Process().nice()


def test_a_log_that_is_written_for_weeks_does_not_fill_the_disk(world: ProcessWorld) -> None:
    spec = world.spec("chatter", log_mb=1)
    seen = world.target.ensure(spec)
    log = world.places(spec).log(spec.name)
    older = [log.with_name(f"{log.name}.{number}") for number in (1, 2)]
    eventually(lambda: all(path.exists() for path in older))
    assert all(path.stat().st_size <= 1 << 20 for path in older)
    world.target.stop(seen, spec.settings, grace_seconds=0, asked_at=seen.started_at)
    eventually(lambda: not world.find(spec)[0].running)
    assert sorted(path.name for path in log.parent.iterdir()) == sorted(path.name for path in (log, *older))
    assert world.target.log_tail(seen, spec.settings, most_bytes=2000).startswith("xxxx")


def test_an_emptied_log_goes_on_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 3000)
        keeper.keep_small(str(log), 1000)
        writer.write(b"b")
    assert log.read_bytes() == b"b"
    assert (tmp_path / "log.1").read_bytes() == b"a" * 1000


def test_a_crash_loop_is_seen_at_each_turn(world: ProcessWorld) -> None:
    spec = world.spec("exit", "9")
    handles = []
    for turn in range(4):
        world.target.ensure(replace(spec, generation=turn + 1))
        seen = eventually(lambda: next((s for s in world.find(spec) if not s.running), None))
        assert seen.exit_code == 9
        handles.append(seen.handle["token"])
    assert len(set(handles)) == 4
    assert world.mark(spec).starts == 4
    assert world.processes() == []


def test_the_scratch_directory_is_empty_at_each_start(world: ProcessWorld) -> None:
    spec = replace(world.spec("serve"), environ={"HERE": "1", "METRICS": "{scratch}"})
    seen = world.target.ensure(spec)
    scratch = Path(ask(seen)["environ"]["METRICS"])
    assert scratch == world.places(spec).scratch(spec.name)
    (scratch / "left").touch()
    world.kill(seen)
    eventually(lambda: not world.find(spec)[0].running)
    ask(world.target.ensure(spec))
    assert list(scratch.iterdir()) == []


def test_the_interpreter_is_the_checkouts_own_where_there_is_one(world: ProcessWorld) -> None:
    spec = world.spec("serve", command="{python} -u program.py serve")
    assert psutil.Process(world.target.ensure(spec).handle["pid"]).cmdline()[0] == sys.executable
    own = world.checkout / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    other = replace(spec, name="shop-2", slot=2)
    assert psutil.Process(world.target.ensure(other).handle["pid"]).cmdline()[0] == str(own)


def test_no_shell_reads_the_command(world: ProcessWorld) -> None:
    spec = world.spec("serve", command="{python} -u program.py serve '$(touch pwned)' ; `touch pwned` {{}} {port}")
    seen = world.target.ensure(spec)
    assert ask(seen)["argv"][2:] == ["$(touch pwned)", ";", "`touch", "pwned`", "{}", str(seen.port)]
    assert not (world.checkout / "pwned").exists()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"command": "./program.txt"}, "no program './program.txt'"),
        ({"command": "./broken"}, "No such file or directory"),
        ({"working_directory": "nowhere"}, "has no directory 'nowhere'"),
        ({"working_directory": "outside"}, "has no directory 'outside'"),
        ({"host": "203.0.113.7"}, "has no address 203.0.113.7"),
    ],
    ids=["not executable", "no interpreter", "no directory", "leaves the checkout", "foreign address"],
)
def test_what_cannot_start_is_refused_with_its_reason(world: ProcessWorld, settings: dict[str, Any], why: str) -> None:
    (world.checkout / "program.txt").touch()
    (world.checkout / "broken").write_text("#!/no/such/interpreter\n")
    (world.checkout / "broken").chmod(0o755)
    (world.checkout / "outside").symlink_to("/tmp")
    spec = world.spec("serve", **settings)
    with pytest.raises(CannotStart) as caught:
        world.target.ensure(spec)
    assert why in caught.value.message
    assert caught.value.remedy
    assert world.find(spec) == []
    assert world.processes() == []


def test_limits_above_what_may_be_had_are_refused(world: ProcessWorld) -> None:
    spec = world.spec("serve", open_files=int(Path("/proc/sys/fs/nr_open").read_text()) + 1)
    with pytest.raises(CannotStart, match="limits"):
        world.target.ensure(spec)


def test_a_release_without_a_checkout_cannot_start(world: ProcessWorld, tmp_path: Path) -> None:
    for checkout in (None, tmp_path / "nothing"):
        with pytest.raises(CannotStart, match="has no checkout"):
            world.target.check(replace(world.spec("serve"), checkout=checkout))


def test_a_data_directory_that_cannot_be_written_is_unavailable(tmp_path: Path, world: ProcessWorld) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetUnavailable, match="cannot be used"):
        ProcessTarget(tmp_path / "file").ensure(world.spec("serve"))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"working_directory": "/etc"}, "leaves the checkout"),
        ({"working_directory": "a/../.."}, "leaves the checkout"),
        ({"host": "0.0.0.0"}, "one address"),
        ({"host": "localhost"}, "no IP address"),
        ({"port_range": "30000-20000"}, "must rise"),
        ({"port_range": "80000"}, "must rise"),
        ({"port_range": "some"}, "no range"),
        ({"nice": -5}, "must be 0 to 19"),
        ({"command": ""}, "needs the setting 'command'"),
        ({"command": "run {"}, "single brace"),
        ({"command": "''"}, "names no program"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_of_processes_are_refused(world: ProcessWorld, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        world.target.check_settings({**world.spec("serve").settings, **wrong})


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 121, "a\n"])
def test_names_that_would_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused):
        Places(tmp_path, "shop").mark(name)
    with pytest.raises(Refused):
        Places(tmp_path, name)


def test_a_keeper_takes_little_memory(world: ProcessWorld) -> None:
    spec = world.spec("serve")
    ask(world.target.ensure(spec))
    assert keeper.memory_of([world.mark(spec).keeper[0]], exact=True) < 20 << 20


@pytest.mark.faults
def test_one_instance_only_whoever_is_killed_while_many_start_it(
    world: ProcessWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten starters at once, killed one after the other at moments of their own, three times over."""
    monkeypatch.setattr(process, "_OTHER_SECONDS", 30.0)
    for turn in range(3):
        spec = replace(world.spec("serve"), generation=turn + 1)
        starters = [start_elsewhere(world, spec, TURN=str(turn)) for _ in range(10)]
        for number, starter in enumerate(starters):
            time.sleep(0.05 * number)
            os.killpg(starter.pid, signal.SIGKILL)
            starter.wait()
        seen = world.target.ensure(spec)
        ask(seen)
        commands = [one for one in world.processes() if "program.py" in " ".join(one.cmdline())]
        assert [one.pid for one in commands] == [seen.handle["pid"]]
        world.target.stop(seen, spec.settings, grace_seconds=0, asked_at=seen.started_at)
        eventually(lambda spec=spec: not world.find(spec)[0].running)


def test_an_instance_inherits_what_its_service_names_and_never_the_control_planes_secrets(
    world: ProcessWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHOP_A", "SHOP_B", "OTHER", "ZANTARA_SECRET_KEY", "ZANTARA_FIELDS_KEY_FILE", "ZANTARA_REDIS_URL"):
        monkeypatch.setenv(name, f"value of {name}")
    spec = world.spec("serve", inherit_environ=["SHOP_*", "ZANTARA_*"])
    seen = world.target.ensure(spec)
    environ = psutil.Process(seen.handle["pid"]).environ()
    assert {name for name in environ if environ[name] == f"value of {name}"} == {
        "SHOP_A",
        "SHOP_B",
        "ZANTARA_REDIS_URL",
    }


def test_a_variable_of_the_service_wins_over_what_instances_are_told(world: ProcessWorld) -> None:
    spec = dataclasses.replace(world.spec("serve"), environ={"ZANTARA_SERVICE_PORT": "3000", "PORT": "1"})
    seen = world.target.ensure(spec)
    environ = psutil.Process(seen.handle["pid"]).environ()
    assert (environ["ZANTARA_SERVICE_PORT"], environ["PORT"]) == ("3000", str(seen.port))


@pytest.mark.parametrize("wrong", [7, ["A B"], ["*"], "A;B"])
def test_names_that_are_no_variables_are_refused(world: ProcessWorld, wrong: Any) -> None:
    with pytest.raises(Refused, match="inherit_environ"):
        world.target.check_settings(world.settings(inherit_environ=wrong))
