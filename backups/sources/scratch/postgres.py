"""A PostgreSQL cluster of its own: on a socket in its folder, careless about crashes, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from backups.sources.pg_connect import Address, Programs, programs_for
from backups.sources.programs import dying_with_us, end_group, own_environment
from controlplane.kernel.errors import Unavailable
from controlplane.kernel.logs import redact_text
from controlplane.kernel.redis_urls import LONGEST_SOCKET_PATH

START_SECONDS = 60
STOP_SECONDS = 20
USER = "zantara"
_PREFIX = "zantara-pg-"
_STALE_SECONDS = 86400
_SOCKET = ".s.PGSQL.5432"
_OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "archive_mode": "off",
    "autovacuum": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "256MB",
    # One transaction restores everything and locks each object that it makes.
    "max_locks_per_transaction": "4096",
    "max_connections": "20",
    "jit": "off",
    "logging_collector": "off",
}


@contextmanager
def scratch_postgres(folder: Path, *, server_major: int) -> Iterator[Address]:
    """The address of a running cluster's database ``postgres``, whose version is not older than ``server_major``.

    Unavailable where no such server is installed, or it does not start.
    """
    programs = programs_for("initdb", server_major, package="postgresql")
    identity = _identity()
    # Only the owner of a folder may be the server's user, and he must be able to reach it: never below a folder
    # of ours, which others cannot enter.
    outside = bool(identity) or _too_long(folder)
    if outside:
        _sweep()
    root = Path(tempfile.mkdtemp(prefix=_PREFIX)) if outside else folder / secrets.token_hex(4)
    root.mkdir(exist_ok=True)
    try:
        if identity:
            os.chown(root, identity["user"], identity["group"])
        _initialise(programs, root, identity)
        process = _start(programs, root, identity)
        try:
            yield _wait(process, root)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _identity() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then it is somebody without rights."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise Unavailable("There is no user to run a scratch PostgreSQL as.", remedy="Make a system user named postgres.")


def _sweep() -> None:
    """Remove what a killed process left in the system's temporary folder, once it is a day old."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS and not (left / _SOCKET).exists():
                shutil.rmtree(left, ignore_errors=True)


def _too_long(folder: Path) -> bool:
    return len(os.fsencode(folder)) + len("/01234567/") + len(_SOCKET) > LONGEST_SOCKET_PATH


def _initialise(programs: Programs, root: Path, identity: dict[str, Any]) -> None:
    made = subprocess.run(
        [programs.path("initdb"), "-D", root / "data", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"],
        capture_output=True, check=False, cwd="/", env=own_environment(), timeout=START_SECONDS, **identity,
    )  # fmt: skip
    if made.returncode:
        raise Unavailable(
            f"A scratch PostgreSQL could not be made: {_end_of(made.stderr)}", remedy="See that there is space in /tmp."
        )


def _start(programs: Programs, root: Path, identity: dict[str, Any]) -> subprocess.Popen[bytes]:
    options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
    with (root / "log").open("wb") as log:
        return subprocess.Popen(
            dying_with_us([programs.path("postgres"), "-D", root / "data", "-k", root, *options]),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=own_environment(), start_new_session=True,
            **identity,
        )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], root: Path) -> Address:
    address = Address({"host": str(root), "port": "5432", "user": USER, "dbname": "postgres"})
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(psycopg.Error):
            psycopg.connect(address.argument()).close()
            return address
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(
                f"A scratch PostgreSQL did not start: {_end_of((root / 'log').read_bytes())}",
                remedy="See its message; often shared memory or space is short.",
            )
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGQUIT)  # immediate: nothing in it is wanted any more
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    end_group(process)


def _end_of(output: bytes) -> str:
    return redact_text(output[-1000:].decode("utf-8", "replace").strip())
