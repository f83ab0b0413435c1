"""Everything that is looked at before the first child starts; each refusal is one sentence with its remedy."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError, Refused
from controlplane.kernel.local_secrets import data_dir
from controlplane.kernel.redis_server import find_server
from controlplane.kernel.redis_urls import default_redis_url, socket_path
from deployments.edge import envoy_program

from . import processes
from .children import HOST, SERVICE, Plan

#: What the children find made; the service's folder of metrics is shared by its instances.
FOLDERS = (
    "run", "run/children", "run/ready", "run/metrics", f"run/metrics/{SERVICE}", "logs", "redis", "chroma", "edge",
    "deployments",
)  # fmt: skip
#: How long a new run waits for one that is just going down; a little more than the longest shutdown.
WAIT_FOR_STOPPING_SECONDS = 12.0
#: A supervisor whose starter was killed needs a moment to notice.
_NOTICE_SECONDS = 1.5


def make_plan(environ: Mapping[str, str]) -> Plan:
    """The stack that the environment asks for. Takes nothing and starts nothing; ConfigurationError on nonsense."""
    env = Env(environ)
    folder = data_dir(env)
    web_port = env.port("ZANTARA_WEB_PORT", 8000)
    edge_port = env.port("ZANTARA_EDGE_PORT", 3000)
    outside_redis = env.url("ZANTARA_REDIS_URL", None, schemes=("redis", "rediss", "unix"))
    outside_chroma = env.url("ZANTARA_CHROMA_URL", None, schemes=("http", "https"))
    chroma_port: int | None = None
    if outside_chroma is None and find_spec("chromadb") is not None:
        chroma_port = env.port("ZANTARA_CHROMA_PORT", 0) if env.text("ZANTARA_CHROMA_PORT") else _free_port()
    return Plan(
        data_dir=folder,
        web_port=web_port,
        edge_port=edge_port if _has_sample() and envoy_program() is not None else None,
        chroma_port=chroma_port,
        redis_server=find_server() if outside_redis is None else None,
        redis_socket=socket_path(folder),
        redis_url=outside_redis or default_redis_url(folder),
        chroma_url=outside_chroma or (f"http://{HOST}:{chroma_port}" if chroma_port else None),
        environ=dict(environ),
    )


def _has_sample() -> bool:
    try:
        return find_spec("examples.zantara.wsgi") is not None
    except ModuleNotFoundError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def prepare_directories(plan: Plan) -> None:
    """Make the folders of the data directory, readable for this user alone, and prove that they can be written."""
    try:
        for name in FOLDERS:
            (plan.data_dir / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = plan.run_dir / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {plan.data_dir} cannot be written ({error.strerror}).",
            remedy="Make it writable for this user, or set ZANTARA_DATA_DIR to a directory that is.",
        ) from None


def prepare_socket_directory(path: Path) -> None:
    """The folder of Redis's socket: ours alone. In a shared temporary directory somebody may have been there first."""
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigurationError(
            f"{folder}, where the socket of Redis belongs, is not a directory of this user.",
            remedy="Remove it, or set ZANTARA_DATA_DIR to a shorter path.",
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)


class Lock:
    """The one-stack-per-data-directory lock: ``run/up.lock``, held by the kernel as long as this process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def acquire(self) -> None:
        """Take it; wait for a stack that is going down; Refused if one runs."""
        started = time.monotonic()
        while not self._try():
            waited = time.monotonic() - started
            holder, state = self._holder()
            limit = WAIT_FOR_STOPPING_SECONDS if state == "stopping" else _NOTICE_SECONDS
            if waited > limit:
                raise Refused(
                    f"Another stack runs on {self._path.parent.parent} (pid {holder}).",
                    remedy="Stop it first, or set ZANTARA_DATA_DIR to another directory.",
                )
            time.sleep(0.05)
        self.say("running")

    def say(self, state: str) -> None:
        """Note for others what the holder is doing: ``running`` or ``stopping``."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()} {state}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return False
        return True

    def _holder(self) -> tuple[str, str]:
        pid, _, state = os.pread(self._descriptor, 100, 0).decode("ascii", "replace").strip().partition(" ")
        return pid or "unknown", state


def check_ports(plan: Plan) -> None:
    """Refuse ports that somebody listens on, with the variable that moves ours."""
    wanted = {"ZANTARA_WEB_PORT": plan.web_port}
    if plan.edge_port is not None:
        wanted["ZANTARA_EDGE_PORT"] = plan.edge_port
    if plan.chroma_port is not None:
        wanted["ZANTARA_CHROMA_PORT"] = plan.chroma_port
    names = list(wanted)
    for position, variable in enumerate(names):
        for other in names[:position]:
            if wanted[variable] == wanted[other]:
                raise ConfigurationError(
                    f"{other} and {variable} are both {wanted[other]}.", remedy=f"Set {variable} to another port."
                )
        check_port(wanted[variable], variable)


def check_port(port: int, variable: str) -> None:
    """Bind and let go. SO_REUSEADDR only steps over connections that linger from an earlier run; with
    SO_REUSEPORT, which the web server sets, a second server would share the port in silence.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            return
        except PermissionError:
            problem = f"Port {port} may not be opened by this user."
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            holder = processes.listener_on(port)
            problem = f"Port {port} is in use{f' by {holder}' if holder else ''}."
    raise Refused(problem, remedy=f"Free it, or set {variable} to another port.")
