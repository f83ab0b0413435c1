"""Memory of the container and connections of the service, read from the kernel's files."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from controlplane.monitoring import pressure
from controlplane.monitoring.pressure import Memory, cgroup_memory, memory
from controlplane.monitoring.sockets import ServiceSockets

MB = 2**20


def machine(folder: Path, cgroup: str, mounts: str) -> Path:
    """A /proc whose process lives in the given groups."""
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "self" / "mountinfo").write_text(mounts.replace("ROOT", str(folder)))
    return proc


def v1(folder: Path, limit: int, usage: int, *, inactive: int = 0, active: int = 0, mapped: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(
        f"cache 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}\ntotal_mapped_file {mapped}\n"
    )


def v2(folder: Path, limit: str, usage: int, *, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 0\nfile_mapped 0\n")


V1_MOUNT = "31 30 0:29 {root} ROOT/cg/memory rw - cgroup cgroup rw,memory\n"
V2_MOUNT = "31 30 0:29 / ROOT/cg rw,nosuid - cgroup2 cgroup2 rw\n"
NO_LIMIT = 9223372036854771712


def test_version_1_counts_the_working_set_without_page_cache(tmp_path: Path) -> None:
    proc = machine(tmp_path, "4:memory:/app\n", V1_MOUNT.format(root="/"))
    v1(tmp_path / "cg/memory", NO_LIMIT, 9 * MB)
    v1(tmp_path / "cg/memory/app", 256 * MB, 250 * MB, inactive=100 * MB, active=60 * MB, mapped=20 * MB)
    assert cgroup_memory(proc) == Memory((250 - 100 - 40) * MB, 256 * MB)


def test_version_1_without_a_limit_is_no_limit(tmp_path: Path) -> None:
    proc = machine(tmp_path, "4:memory:/app\n", V1_MOUNT.format(root="/"))
    v1(tmp_path / "cg/memory", NO_LIMIT, 9 * MB)
    v1(tmp_path / "cg/memory/app", NO_LIMIT, 9 * MB)
    assert cgroup_memory(proc) is None
    seen = memory(proc)
    assert seen.limit_bytes == psutil.virtual_memory().total


def test_the_smallest_limit_among_the_ancestors_holds_with_that_groups_own_usage(tmp_path: Path) -> None:
    proc = machine(tmp_path, "0::/pod/app\n", V2_MOUNT)
    v2(tmp_path / "cg/pod", str(200 * MB), 150 * MB, inactive=10 * MB)
    v2(tmp_path / "cg/pod/app", str(300 * MB), 90 * MB)
    assert cgroup_memory(proc) == Memory(140 * MB, 200 * MB)


def test_version_2_without_a_limit_is_no_limit(tmp_path: Path) -> None:
    proc = machine(tmp_path, "0::/app\n", V2_MOUNT)
    v2(tmp_path / "cg/app", "max", 90 * MB)
    assert cgroup_memory(proc) is None


def test_in_a_container_the_group_is_where_it_is_mounted(tmp_path: Path) -> None:
    proc = machine(tmp_path, "4:memory:/docker/abc\n", V1_MOUNT.format(root="/docker/abc"))
    v1(tmp_path / "cg/memory", 128 * MB, 64 * MB)
    assert cgroup_memory(proc) == Memory(64 * MB, 128 * MB)


def test_a_limit_above_the_machines_memory_is_none(tmp_path: Path) -> None:
    proc = machine(tmp_path, "0::/app\n", V2_MOUNT)
    v2(tmp_path / "cg/app", str(1 << 50), 90 * MB)
    assert memory(proc).limit_bytes == psutil.virtual_memory().total


@pytest.mark.parametrize("broken", ["", "nonsense\n"])
def test_files_that_say_nothing_are_no_limit(tmp_path: Path, broken: str) -> None:
    proc = machine(tmp_path, "0::/app\n", V2_MOUNT)
    v2(tmp_path / "cg/app", str(100 * MB), 90 * MB)
    (tmp_path / "cg/app/memory.current").write_text(broken)
    assert cgroup_memory(proc) is None


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_connections_to_the_own_port_are_counted_once_each_and_forgotten_when_closed(listener: socket.socket) -> None:
    sockets = ServiceSockets()
    before = sockets.established()
    clients = [socket.create_connection(listener.getsockname()) for _ in range(7)]
    accepted = [listener.accept()[0] for _ in clients]
    assert sockets.established() == before + 7
    for one in [*clients, *accepted]:
        one.close()
    assert sockets.established() == before


def test_a_port_that_the_operator_names_is_the_one(listener: socket.socket, settings: object) -> None:
    settings.ZANTARA_SERVICE_PORT = listener.getsockname()[1]  # type: ignore[attr-defined]
    with socket.create_connection(listener.getsockname()):
        assert ServiceSockets().established() == 1


def test_connections_to_the_own_unix_socket_are_counted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        sockets = ServiceSockets()
        before = sockets.established()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            with server.accept()[0]:
                assert sockets.established() == before + 1


def is_sampled_again(seen: pressure.Pressure, seconds: float = 30) -> bool:
    """Whether a newer sample than this one comes by itself."""
    deadline = time.monotonic() + seconds
    while pressure.current().sampled_at <= seen.sampled_at:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_one_thread_keeps_the_sample_fresh_and_a_fork_starts_its_own() -> None:
    first = pressure.current()
    assert 0 < first.memory_percent < 100
    assert is_sampled_again(first)
    child = os.fork()
    if child == 0:
        os._exit(0 if is_sampled_again(pressure.current()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
