"""A Redis of its own: on a socket, without persistence, gone afterwards; loaded from an RDB file where one is given."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from backups.errors import Damaged
from backups.sources.programs import dying_with_us, end_group, own_environment
from backups.sources.redis_link import NO_RETRY
from controlplane.kernel.errors import ConfigurationError, Unavailable
from controlplane.kernel.redis_server import find_server

#: As many logical databases as an RDB of ours may reasonably use; the default is 16.
DATABASES = 1024
#: A large file takes a while: about 50–100 MB of RDB a second.
LOAD_SECONDS = 900.0
_POLL_SECONDS = 0.02


def server_program() -> Path:
    """Unavailable, naming what to install, where there is no Redis server on this machine."""
    try:
        return find_server()
    except ConfigurationError as error:
        raise Unavailable(error.message, remedy=error.remedy) from None


@contextmanager
def scratch_redis(folder: Path, rdb: Path | None = None) -> Iterator[Callable[[int], redis.Redis]]:
    """A running server; gives ``connect(database)``.

    Unavailable where it cannot be had, Damaged where the server does not load ``rdb``.
    """
    program = server_program()
    # A socket's path must be short; the folder of a drill may be deep.
    sockets = Path(tempfile.mkdtemp(prefix="zantara-redis-"))
    socket = sockets / "redis.sock"
    data = folder / "redis"
    data.mkdir(exist_ok=True)
    argv = dying_with_us([
        program, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(data),
        "--dbfilename", "none.rdb", "--save", "", "--appendonly", "no", "--databases", str(DATABASES),
        "--daemonize", "no", "--loglevel", "warning",
    ])  # fmt: skip
    if rdb is not None:
        shutil.copy2(rdb, data / "load.rdb") if rdb.parent != data else rdb.replace(data / "load.rdb")
        argv[argv.index("none.rdb")] = "load.rdb"
    log = folder / "redis.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env=own_environment(),
            )  # fmt: skip
        try:
            _wait(process, socket, log, loads=rdb is not None)
            yield lambda database: redis.Redis(unix_socket_path=str(socket), db=database, protocol=2)
        finally:
            end_group(process)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
        log.unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], socket: Path, log: Path, *, loads: bool) -> None:
    deadline = time.monotonic() + LOAD_SECONDS
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=10, retry=NO_RETRY) as client:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError:  # not there yet, or loading
                pass
            if process.poll() is not None:
                said = log.read_bytes()[-1000:].decode("utf-8", "replace").strip()
                if loads:
                    raise Damaged(f"Redis does not load this file: {said}", remedy="Use another restore point.")
                raise Unavailable(f"The scratch Redis ended at once: {said}", remedy="See what its last words mean.")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The scratch Redis was not ready within {LOAD_SECONDS:.0f} seconds.",
                    remedy="See whether this machine has the memory for this data.",
                )
            time.sleep(_POLL_SECONDS)


def check_rdb(path: Path) -> str:
    """What ``redis-check-rdb`` says of the file; Damaged where it does not like it.

    The server's own program does this under that name, so it is there wherever the server is.
    """
    answer = subprocess.run(
        ["redis-check-rdb", str(path)], executable=str(server_program()), capture_output=True, check=False,
        env=own_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = (answer.stdout + answer.stderr)[-4096:].decode("utf-8", "replace")
    if answer.returncode != 0:
        reasons = [line for line in said.splitlines() if "error" in line.lower() or "---" in line]
        raise Damaged(
            f"redis-check-rdb refuses this file: {' / '.join(reasons)[:500] or said[-500:]}",
            remedy="Use another restore point.",
        )
    return said
