"""A private Docker engine and an image with Python, made on this machine: nothing is pulled from a registry.

The engine has its own bridge, data, sockets and no firewall rules, so that another one beside it notices nothing.
The image is Debian's own Python on a minimal system (debootstrap, about a minute), kept for later runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import needs

SUITE, PYTHON = "bookworm", (3, 11)
IMAGE = f"zantara-test-python:{SUITE}"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "zantara-tests"
#: The packages of this environment; their compiled parts fit the same Python only.
SITE = Path(sysconfig.get_path("purelib"))
#: The interpreter that those packages were installed for: Debian's own is in the image, any other is lent to it.
LENT = Path(sys.base_prefix) if sys.base_prefix != "/usr" else None
INTERPRETER = "python3" if LENT is None else f"{LENT}/bin/python3"
MOUNTS = [f"{SITE}:/packages:ro", *([] if LENT is None else [f"{LENT}:{LENT}:ro"])]


@dataclass
class Engine:
    """A running daemon. ``docker`` runs the client against it and returns what it printed."""

    host: str
    program: str

    def docker(self, *arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True) -> str:
        done = subprocess.run(
            [self.program, *arguments], env={**os.environ, "DOCKER_HOST": self.host},
            input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments[:3])}: {done.stderr[-2000:]}")
        return done.stdout


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """Left out, with a reason, where there is no root or no engine to start."""
    if os.geteuid() != 0:
        needs.leave_out("a Docker engine of its own needs root")
    if LENT is None and sys.version_info[:2] != PYTHON:
        needs.leave_out(f"the image's Python is {PYTHON}, and the packages here are for {sys.version_info[:2]}")
    daemon = needs.command("dockerd", package="docker.io")
    client = needs.command("docker", package="docker.io")
    needs.command("ip", package="iproute2")
    needs.command("debootstrap", package="debootstrap")
    archive = _root_file_system()
    with tempfile.TemporaryDirectory(prefix="zt-docker-", ignore_cleanup_errors=True) as name, _bridge() as bridge:
        folder = Path(name)
        engine = Engine(f"unix://{folder}/docker.sock", client)
        command = [
            daemon, f"--bridge={bridge}", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
            "--ip-masq=false", f"--data-root={folder}/data", f"--exec-root={folder}/exec",
            f"--pidfile={folder}/pid", "-H", engine.host,
        ]  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(engine, process, folder / "log")
            engine.docker("import", str(archive), IMAGE, timeout=120)
            yield engine
        finally:
            _stop(engine, process)


def _root_file_system() -> Path:
    archive = CACHE / f"{SUITE}-python3.tar"
    if archive.exists():
        return archive
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        root, made = Path(name) / "root", Path(name) / "made.tar"
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=python3", SUITE, str(root)],
            check=True, stdout=subprocess.DEVNULL, timeout=600,
        )  # fmt: skip
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        subprocess.run(["tar", "-C", str(root), "-cf", str(made), "."], check=True, timeout=120)
        made.replace(archive)  # at once: an interrupted run leaves no half image
    return archive


@contextlib.contextmanager
def _bridge() -> Iterator[str]:
    """A bridge of our own: with ``--bridge=none`` the daemon would delete the one of an engine beside it."""
    name = f"zt{os.getpid() % 10**8}"
    subnet = next(subnet for subnet in (f"172.31.{n}" for n in range(98, 256)) if not _is_taken(f"{subnet}.0/24"))
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", f"{subnet}.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False)


def _is_taken(network: str) -> bool:
    """By an engine beside this one, or by the bridge of a run that was killed."""
    return bool(subprocess.run(["ip", "route", "show", network], check=True, capture_output=True).stdout)


def _wait_for(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 40
    while True:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            engine.docker("version", timeout=5)
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the Docker engine did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def _stop(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        running = engine.docker("ps", "-aq").split()
        if running:
            engine.docker("rm", "-f", *running)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
