"""What only local processes have: keepers, marks, ports, logs, limits, and the death of any of them at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.kernel.errors import LeaseLost, Refused
from controlplane.monitoring.processes import lives, start_of
from deployments.errors import CannotStart, TargetUnavailable
from deployments.targets import keeper, process
from deployments.targets.places import Places
from deployments.targets.process import ProcessTarget
from tests.deployments.contracts.target_contract import SECRET, ask, eventually, start_elsewhere

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


# --- who is whose ------------------------------------------------------------------------------------------------


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


# --- deaths ------------------------------------------------------------------------------------------------------


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


def test_starters_killed_at_any_moment_leave_one_instance_or_none(world: ProcessWorld) -> None:
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


# --- ports -------------------------------------------------------------------------------------------------------


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


# --- limits, logs, commands --------------------------------------------------------------------------------------


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
def test_one_instance_only_whoever_is_killed_while_many_start_it(world: ProcessWorld) -> None:
    """Ten starters at once, killed one after the other at moments of their own, three times over."""
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
    spec = world.spec(inherit_environ=["SHOP_*", "ZANTARA_*"])
    seen = world.target.ensure(spec)
    environ = psutil.Process(seen.handle["pid"]).environ()
    assert {name for name in environ if environ[name] == f"value of {name}"} == {
        "SHOP_A",
        "SHOP_B",
        "ZANTARA_REDIS_URL",
    }


def test_a_variable_of_the_service_wins_over_what_instances_are_told(world: ProcessWorld) -> None:
    spec = dataclasses.replace(world.spec(), environ={"ZANTARA_SERVICE_PORT": "3000", "PORT": "1"})
    seen = world.target.ensure(spec)
    environ = psutil.Process(seen.handle["pid"]).environ()
    assert (environ["ZANTARA_SERVICE_PORT"], environ["PORT"]) == ("3000", str(seen.port))


@pytest.mark.parametrize("wrong", [7, ["A B"], ["*"], "A;B"])
def test_names_that_are_no_variables_are_refused(world: ProcessWorld, wrong: Any) -> None:
    with pytest.raises(Refused, match="inherit_environ"):
        world.target.check_settings(world.settings(inherit_environ=wrong))
