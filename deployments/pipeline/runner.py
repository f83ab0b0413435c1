"""Steps as detached processes: begun once, seen by anybody, stopped by anybody. Nothing here waits for a step.

The folder of a step says all: whoever has it finds the step again, whichever worker began it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployments.errors import StepFailed

from . import folder as files
from .base import Limits, StepSeen, StepSpec

ROOT = Path(__file__).resolve().parents[2]
#: What a step gets of the worker's environment: where programs, certificates and proxies are; never its secrets.
INHERITED = (
    "PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
_HANDLE_SECONDS = 2.0
#: Shepherds that this process began and has not reaped yet.
_begun: set[int] = set()


def small_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every step has, with ``extra`` on top."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    kept.setdefault("PATH", os.defpath)
    return {**kept, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **(extra or {})}


def begin(spec: StepSpec, folder: Path, limits: Limits | None = None) -> dict[str, Any]:
    """Begin the step, or find that it was begun; its handle: pid, start time and boot of the shepherd.

    One that runs or has ended is not begun again; one that is gone is. StepFailed where it cannot be begun at all.
    """
    if not spec.argv or not spec.argv[0]:
        raise StepFailed(f"The step {spec.name} has no command.", remedy="Give it one.")
    _reap()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = files.take_lock(folder)
        if lock is None:
            return _handle_of_another(folder)
        try:
            if (folder / files.END).exists():
                return files.read_json(folder / files.HANDLE) or {}
            files.end_leftovers(folder)
            return _start(spec, folder, limits or Limits(), lock)
        finally:
            os.close(lock)
    except OSError as error:
        raise StepFailed(
            f"The step {spec.name} cannot be begun in {folder} ({error.strerror or error}).",
            remedy="See that the data directory is writable and that its disk has room.",
        ) from None


def look(folder: Path, handle: Mapping[str, Any] | None = None) -> StepSeen:
    """The step as it is now. ``handle`` may be missing: the folder holds it as well.

    Before it says that a step is gone it ends what that one left running: no step ever runs twice at once.
    """
    _reap()
    output_bytes = _size(folder / files.OUTPUT)
    if not files.is_held(folder):
        end = files.read_json(folder / files.END)
        if end is not None:
            return StepSeen(
                running=False,
                exit_code=end["exit_code"],
                timed_out=end["timed_out"],
                started_at=datetime.fromisoformat(end["started_at"]),
                finished_at=datetime.fromisoformat(end["finished_at"]),
                output_bytes=output_bytes,
                reason=end["reason"],
            )
        if _is_gone(folder):
            return StepSeen(running=False, gone=True, output_bytes=output_bytes)
    begun = (files.read_json(folder / files.HANDLE) or handle or {}).get("at")
    return StepSeen(
        running=True, started_at=datetime.fromisoformat(begun) if begun else None, output_bytes=output_bytes
    )


def kill(folder: Path, handle: Mapping[str, Any] | None = None) -> None:
    """Ask for the step's end: it is asked (SIGTERM), then killed with all that it started. Returns at once.

    A step that was not begun yet will end as soon as it is: a late worker cannot revive it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / files.STOP).touch(mode=0o600)  # also seen where the shepherd runs in another container
    if files.is_held(folder):
        mark = files.read_json(folder / files.HANDLE) or handle or {}
        if files.is_alive(mark):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(mark["pid"]), signal.SIGTERM)
    elif not (folder / files.END).exists():
        _is_gone(folder)


def output_tail(folder: Path, most_bytes: int = 65536, offset: int | None = None) -> str:
    """The end of what the step said, at most so many bytes; with ``offset``, what it said from there on."""
    size = _size(folder / files.OUTPUT)
    begin_at = max(0, size - most_bytes) if offset is None else min(max(offset, 0), size)
    return _read(folder, begin_at, most_bytes)[0]


def output_since(folder: Path, offset: int, most_bytes: int = 65536) -> tuple[str, int]:
    """What it said from that byte on, at most so many bytes, and the offset at which to go on."""
    return _read(folder, max(offset, 0), most_bytes)


def _read(folder: Path, begin_at: int, most_bytes: int) -> tuple[str, int]:
    try:
        with (folder / files.OUTPUT).open("rb") as stream:
            stream.seek(begin_at)
            data = stream.read(most_bytes)
    except OSError:
        return "", begin_at
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:  # the rest of a character that began before
        start += 1
    text = data[start:].decode("utf-8", "ignore")  # half a character at the end comes with the next piece
    return text, begin_at + start + len(text.encode())


def _start(spec: StepSpec, folder: Path, limits: Limits, lock: int) -> dict[str, Any]:
    for name in (files.HANDLE, files.COMMAND, files.OUTPUT):
        (folder / name).unlink(missing_ok=True)
    environ = small_environment(spec.environ)
    files.write_json(
        folder / files.SPEC,
        {
            "name": spec.name,
            "kind": spec.kind,
            "argv": list(spec.argv),
            "cwd": os.fspath(spec.cwd),
            "timeout_seconds": spec.timeout_seconds,
            "variables": sorted(environ),
            "limits": asdict(limits),
        },
    )
    with (folder / files.COMPLAINTS).open("wb") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.pipeline.shepherd", os.fspath(folder.resolve())],
            cwd="/",
            env={**small_environment(), "PYTHONPATH": os.fspath(ROOT)},
            stdin=subprocess.PIPE,
            stdout=complaints,
            stderr=complaints,
            start_new_session=True,
            pass_fds=(lock,),
        )
    _begun.add(process.pid)
    process.returncode = 0  # it is let go: nobody waits for it, and _reap takes its remains away
    handle = {**files.mark_of(process.pid), "at": datetime.now(UTC).isoformat()}
    files.write_json(folder / files.HANDLE, handle)
    assert process.stdin is not None  # noqa: S101  (asked for above)
    # Through a pipe: neither a command line nor a disk ever shows them.
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(json.dumps({"environ": environ, "secrets": list(spec.secrets)}).encode())
    return handle


def _handle_of_another(folder: Path) -> dict[str, Any]:
    """The handle that whoever holds the lock has written, or is about to; empty if that takes too long."""
    until = time.monotonic() + _HANDLE_SECONDS
    while (handle := files.read_json(folder / files.HANDLE)) is None and time.monotonic() < until:
        time.sleep(0.01)
    return handle or {}


def _is_gone(folder: Path) -> bool:
    """Whether nobody runs it; what it left behind is ended."""
    if not (folder / files.LOCK).exists():
        return True
    lock = files.take_lock(folder)
    if lock is None:
        return False
    try:
        if (folder / files.END).exists():
            return False
        files.end_leftovers(folder)
        return True
    finally:
        os.close(lock)


def _reap() -> None:
    for pid in list(_begun):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # a process that was forked since has copied the set, and no such child
            ended = True
        if ended:
            _begun.discard(pid)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
