"""What is refused before anything starts: one sentence, with its remedy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane.embedded import preflight
from controlplane.embedded.children import Plan, base_environ, bootstrap_child, service_children
from controlplane.kernel.errors import ConfigurationError, Refused
from controlplane.kernel.redis_server import find_server

HOLD = """
import sys, time
from pathlib import Path
from controlplane.embedded.preflight import Lock
lock = Lock(Path(sys.argv[1]))
lock.acquire()
lock.say(sys.argv[2])
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


def plan_for(folder: Path, **environ: str) -> Plan:
    return preflight.make_plan({"ZANTARA_DATA_DIR": str(folder), **environ})


def hold(path: Path, state: str, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), state, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_the_ports_and_the_data_directory_have_their_defaults() -> None:
    plan = preflight.make_plan({})
    assert (plan.web_port, plan.data_dir) == (8000, Path(__file__).parents[2] / "var")
    assert plan.edge_port in (3000, None)
    assert plan.redis_url == f"unix://{plan.data_dir}/run/redis.sock?db=0"


@pytest.mark.parametrize("value", ["80000", "0", "http"])
def test_a_port_that_is_none_is_refused_with_its_variable(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigurationError, match="ZANTARA_WEB_PORT"):
        plan_for(tmp_path, ZANTARA_WEB_PORT=value)


def test_a_port_in_use_is_refused_and_the_holder_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Refused) as caught:
            preflight.check_port(port, "ZANTARA_WEB_PORT")
    assert caught.value.message.startswith(f"Port {port} is in use by ")
    assert f"(pid {os.getpid()})" in caught.value.message
    assert caught.value.remedy == "Free it, or set ZANTARA_WEB_PORT to another port."


def test_a_port_whose_holder_shares_it_is_in_use_all_the_same() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(Refused, match="is in use"):
            preflight.check_port(holder.getsockname()[1], "ZANTARA_EDGE_PORT")


def test_a_port_with_connections_that_linger_from_an_earlier_run_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the web server does
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _address = server.accept()
        accepted.close()  # the side that closes first keeps TIME_WAIT
        client.close()
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", port))  # it lingers indeed
    preflight.check_port(port, "ZANTARA_WEB_PORT")


def test_the_same_port_twice_is_refused(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = str(free_port())
    plan = plan_for(tmp_path, ZANTARA_WEB_PORT=port, ZANTARA_CHROMA_PORT=port)
    with pytest.raises(ConfigurationError, match=f"ZANTARA_WEB_PORT and ZANTARA_CHROMA_PORT are both {port}"):
        preflight.check_ports(plan)


def test_a_data_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        preflight.prepare_directories(plan_for(tmp_path / "file" / "var"))
    assert "cannot be written" in caught.value.message
    assert "ZANTARA_DATA_DIR" in caught.value.remedy


def test_the_folders_are_for_this_user_alone(tmp_path: Path) -> None:
    preflight.prepare_directories(plan_for(tmp_path / "var"))
    for name in ("run", "run/children", "logs", "redis", "chroma"):
        assert (tmp_path / "var" / name).stat().st_mode & 0o777 == 0o700


def test_the_lock_is_taken_once_and_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    holder = hold(tmp_path / "up.lock", "running", 60)
    lock = preflight.Lock(tmp_path / "up.lock")
    try:
        with pytest.raises(Refused, match=rf"Another stack runs on .*\(pid {holder.pid}\)"):
            lock.acquire()
        holder.kill()
        holder.wait()
        lock.acquire()
        assert (tmp_path / "up.lock").read_text() == f"{os.getpid()} running\n"
    finally:
        holder.kill()
        holder.wait()
        lock.release()


def test_a_stack_that_is_going_down_is_waited_for(tmp_path: Path) -> None:
    holder = hold(tmp_path / "up.lock", "stopping", 3)
    lock = preflight.Lock(tmp_path / "up.lock")
    started = time.monotonic()
    lock.acquire()
    assert time.monotonic() - started > preflight._NOTICE_SECONDS
    lock.release()
    assert holder.wait(5) == 0


def test_the_sockets_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "zantara-socket"
    preflight.prepare_socket_directory(folder / "redis.sock")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    preflight.prepare_socket_directory(folder / "redis.sock")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_sockets_folder_that_somebody_else_planted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "planted"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(ConfigurationError, match="not a directory of this user"):
        preflight.prepare_socket_directory(link / "redis.sock")
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(ConfigurationError, match="not a directory of this user"):
        preflight.prepare_socket_directory(folder / "redis.sock")


def test_an_outside_redis_and_chroma_are_used_and_none_is_started(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, ZANTARA_REDIS_URL="redis://example.test/3", ZANTARA_CHROMA_URL="http://example.test:9")
    assert (plan.redis_server, plan.redis_url) == (None, "redis://example.test/3")
    assert (plan.chroma_port, plan.chroma_url) == (None, "http://example.test:9")


def test_no_redis_anywhere_is_one_sentence_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.kernel.redis_server.shutil.which", lambda _name: None)
    monkeypatch.setattr("controlplane.kernel.redis_server.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"There is no Redis server on this machine\. Install "):
        find_server()


def test_the_wheels_server_is_found_where_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.kernel.redis_server.shutil.which", lambda _name: None)
    server = find_server()
    assert server.name == "valkey-server"
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    assert "alkey server v=" in version


def test_every_child_knows_where_the_stack_is_and_the_edge_gets_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    for name in ("secret_key", "jwt_secret", "limits_secret"):
        (tmp_path / "secrets" / name).write_text("x")
    plan = plan_for(tmp_path, ZANTARA_SECRET_KEY="s" * 50, ZANTARA_DATABASE_URL="sqlite:////x", HOME="/home/x")
    preflight.prepare_directories(plan)
    preflight.prepare_socket_directory(plan.redis_socket)
    children = {child.name: child for child in service_children(plan)}
    edge = children.pop("edge")
    assert set(edge.environ) == {"PATH"}
    for child in children.values():
        assert child.environ["ZANTARA_DATA_DIR"] == str(tmp_path)
        assert child.environ["ZANTARA_REDIS_URL"] == plan.redis_url
        assert child.environ["ZANTARA_JWT_SECRET_FILE"] == str(tmp_path / "secrets" / "jwt_secret")
        assert child.environ["HOME"] == "/home/x"
        assert "ZANTARA_SECRET_KEY" in child.environ
        assert all("x" * 5 not in argument for argument in child.argv)
    metrics = {Path(child.environ["PROMETHEUS_MULTIPROC_DIR"]) for child in children.values() if child.name != "chroma"}
    assert metrics == {plan.run_dir / "metrics" / "controlplane"}, "one service counts in one folder"
    assert [child.wipe for child in (bootstrap_child(plan), *children.values()) if child.wipe is not None] == [
        plan.run_dir / "metrics" / "controlplane",
    ], "a worker that starts again must not take away what the others have counted"


def test_a_secret_given_by_value_is_not_given_by_file_as_well(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "jwt_secret").write_text("x")
    environ = base_environ(plan_for(tmp_path, ZANTARA_JWT_SECRET="given"))
    assert environ["ZANTARA_JWT_SECRET"] == "given"
    assert "ZANTARA_JWT_SECRET_FILE" not in environ
