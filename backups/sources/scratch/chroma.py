"""A Chroma server of its own, on a free port of this machine; gone afterwards with all that was in it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import httpx2

from backups.sources.chroma_client import Server
from backups.sources.programs import dying_with_us, end_group, own_environment
from controlplane.kernel.errors import Unavailable
from controlplane.kernel.logs import redact_text

START_SECONDS = 60
HOST = "127.0.0.1"
_PORT_TRIES = 3


@contextmanager
def scratch_chroma(folder: Path) -> Iterator[Server]:
    """A running server with an empty store below ``folder``; Unavailable where it cannot be had."""
    root = folder / "chroma"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, mode=0o700)
    try:
        process, url = _started(root)
        try:
            yield Server(url)
        finally:
            end_group(process)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def command() -> list[str]:
    """What starts a server, without its options."""
    if find_spec("chromadb") is not None:
        return [sys.executable, "-c", "from chromadb.cli.cli import app; app()", "run"]
    found = shutil.which("chroma")
    if found is None:
        raise Unavailable(
            "There is no Chroma server on this machine for a drill.",
            remedy="Install the Python package chromadb (the extra “embedded”).",
        )
    return [found, "run"]


def _started(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Somebody else may take the port between our look and the server's: then another one is tried."""
    said = ""
    for _ in range(_PORT_TRIES):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        process = _start(root, port)
        url = f"http://{HOST}:{port}"
        try:
            if _answers(process, url):
                return process, url
        except BaseException:
            end_group(process)
            raise
        end_group(process)
        said = redact_text((root / "log").read_bytes()[-1000:].decode("utf-8", "replace").strip())
    raise Unavailable(f"A scratch Chroma did not start: {said}", remedy="See its message and the space on the disk.")


def _start(root: Path, port: int) -> subprocess.Popen[bytes]:
    argv = [*command(), "--path", str(root / "data"), "--host", HOST, "--port", str(port)]
    environ = own_environment({"ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1"})
    with (root / "log").open("wb") as log:
        return subprocess.Popen(
            dying_with_us(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=root, env=environ,
            start_new_session=True,
        )  # fmt: skip


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    with httpx2.Client(trust_env=False, verify=False, timeout=2) as http:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx2.HTTPError):
                if http.get(f"{url}/api/v2/heartbeat").status_code == 200:
                    time.sleep(0.05)  # one that could not have the port is dead by now
                    return process.poll() is None
            time.sleep(0.1)
    return False
