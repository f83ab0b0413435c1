"""Two real S3 servers, one per run: rclone's, and moto's whose answers a test may spoil."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups.storage.connection import Connection
from backups.storage.s3 import S3Storage
from backups.storage.s3_calls import Patience
from tests import needs
from tests.ports import find_free_port

ACCESS_KEY, SECRET_KEY = "AKIAZANTARATEST", "hunter2hunter2hunter2"
#: Enough for a fault or two, and no test waits for a server that stays away.
TESTS = Patience(attempts=4, first_wait_seconds=0.01, longest_wait_seconds=0.05, connect_seconds=5, read_seconds=20)


class S3Server:
    """A server on 127.0.0.1. ``folder``: where rclone keeps its buckets; moto keeps them in memory."""

    def __init__(self, name: str, url: str, process: subprocess.Popen[bytes], folder: Path | None) -> None:
        self.name, self.url, self.process, self.folder = name, url, process, folder
        self._numbers = itertools.count(1)

    def make_bucket(self) -> str:
        """A new, empty bucket."""
        name = f"bucket-{os.getpid()}-{next(self._numbers)}"
        self.storage(name).client.create_bucket(Bucket=name)
        return name

    def connection(self, bucket: str, *, url: str = "", checksum_mode: str = "when_required") -> Connection:
        return Connection(
            bucket=bucket,
            region="us-east-1",
            endpoint_url=url or self.url,
            path_style=True,
            checksum_mode=checksum_mode,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
        )

    def storage(
        self, bucket: str, *, prefix: str = "", url: str = "", patience: Patience = TESTS,
        checksum_mode: str = "when_required", page_size: int = 1000,
    ) -> S3Storage:  # fmt: skip
        connection = self.connection(bucket, url=url, checksum_mode=checksum_mode)
        return S3Storage(connection, prefix=prefix, patience=patience, page_size=page_size)

    def target_fields(self, bucket: str, *, url: str = "") -> dict[str, object]:
        """The fields of a StorageTarget row for this server."""
        return {
            "kind": "s3",
            "endpoint_url": url or self.url,
            "bucket": bucket,
            "region": "us-east-1",
            "path_style": True,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the S3 server did not start")
        time.sleep(0.05)


@contextlib.contextmanager
def _served(name: str, *arguments: str, port: int, folder: Path | None) -> Iterator[S3Server]:
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for(process, port)
        yield S3Server(name, f"http://127.0.0.1:{port}", process, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _program(name: str, package: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else needs.command(name, package=package)


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[S3Server]:
    """`rclone serve s3` on a temporary folder."""
    program, port = _program("rclone", "rclone"), find_free_port()
    folder = Path(tempfile.mkdtemp(prefix="zt-rclone-"))
    try:
        with _served(
            "rclone", program, "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}",
            "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(folder),
            port=port, folder=folder,
        ) as server:  # fmt: skip
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """Moto's server; it checks no signature."""
    program, port = _program("moto_server", "moto[server], by pip"), find_free_port()
    with _served("moto", program, "-H", "127.0.0.1", "-p", str(port), port=port, folder=None) as server:
        yield server
