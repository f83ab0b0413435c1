"""Tends one step: runs its command, keeps its output, holds it to its limits, and writes how it ended.

``python -m deployments.pipeline.shepherd FOLDER`` is started by ``runner.begin`` with the folder's lock open and the
environment and secrets on standard input. It knows nothing of Django, a database or the worker, and outlives the
worker. If it is killed itself, the kernel kills the command.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from . import folder as files
from .masking import BoundedFile, Cleaner

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_LOOK_SECONDS = 0.25
_DISK_SECONDS = 1.0
#: How long output is awaited after the command itself has ended; then whatever it left behind is killed.
_STRAGGLER_SECONDS = 0.5
#: Checks and builds make way for the instances that serve on the same machine.
_NICENESS = 10
_NOT_FOUND, _NOT_STARTED = 127, 126
_END_BYTES = 4096
_TODO = {
    errno.ENOEXEC: "begin a script with a line like #!/bin/sh.",
    errno.E2BIG: "shorten its arguments, or the service's variables.",
}


class Shepherd:
    """One step, from before its start to after its end."""

    def __init__(self, folder: Path, spec: Mapping[str, Any], environ: Mapping[str, str], secrets: list[str]) -> None:
        self.folder, self.argv, self.cwd = folder, [str(part) for part in spec["argv"]], Path(spec["cwd"])
        self.environ, self.timeout = environ, float(spec["timeout_seconds"])
        limits = spec["limits"]
        self.grace, self.free_floor = float(limits["grace_seconds"]), int(limits["free_bytes"])
        stream = os.fdopen(
            os.open(folder / files.OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb"
        )
        self.output = BoundedFile(stream, int(limits["output_bytes"]))
        self.cleaner = Cleaner(secrets)
        self.started_at = datetime.now(UTC)
        self.asked_to_stop = self.timed_out = False
        self._disk_due = 0.0
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def run(self) -> None:
        """Run the step to its end; ``end.json`` is the last thing written."""
        reserve = self._reserve_end()
        self._listen()
        reason = self._why_end(time.monotonic() + self.timeout)
        code: int | None = None
        if not reason:
            process, reason, code = self._start()
            if process is not None:
                code, reason = self._tend(process)
        if reason:
            self.output.write(self.cleaner.feed(f"\n[{reason}]\n".encode()))
        self.output.write(self.cleaner.feed(b"", last=True))
        self.output.close()
        self._write_end(reserve, code, reason)

    def _start(self) -> tuple[subprocess.Popen[bytes] | None, str, int | None]:
        """The running command, or why there is none."""
        program = self.argv[0]
        if not self.cwd.is_dir():
            return None, f"The directory {self.cwd} does not exist: correct the step's working directory.", _NOT_STARTED
        try:
            process = subprocess.Popen(
                self.argv,
                cwd=self.cwd,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                bufsize=0,
                preexec_fn=self._in_child(),  # noqa: PLW1509  (this process has one thread)
            )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                what = f"{program} was not found: install it, or give its whole path in the step's command."
                return None, what, _NOT_FOUND
            if error.errno == errno.EACCES:
                return None, f"{program} may not be executed: make it executable (chmod +x).", _NOT_STARTED
            todo = _TODO.get(error.errno or 0, "see that this machine can run it.")
            return None, f"{program} could not be started ({error.strerror}): {todo}", _NOT_STARTED
        except ValueError as error:  # a NUL in an argument
            return None, f"The command cannot be run ({error}): correct it.", _NOT_STARTED
        return process, "", None

    def _in_child(self) -> Callable[[], None]:
        """What the child does between fork and exec: leave its mark, make way, and die with its shepherd."""
        libc, shepherd, mark = self._libc, os.getpid(), self.folder / files.COMMAND

        def prepare() -> None:
            os.nice(_NICENESS)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != shepherd:  # it died before the call above could be heard
                    os._exit(1)
            with suppress(OSError):  # before it starts anything: its mark is how that is found again
                files.write_json(mark, files.mark_of(os.getpid()))

        return prepare

    def _tend(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Its exit code once it has ended, and why it was ended where it was."""
        deadline = time.monotonic() + self.timeout
        reason, kill_at = "", 0.0
        with selectors.DefaultSelector() as selector:
            assert process.stdout is not None  # noqa: S101  (asked for above)
            os.set_blocking(process.stdout.fileno(), False)
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while process.poll() is None:
                self._read(selector, process)
                if not reason:
                    reason = self._why_end(deadline)
                    if reason:
                        kill_at = time.monotonic() + self.grace
                        self._signal(process, signal.SIGTERM)
                elif time.monotonic() >= kill_at:
                    self._signal(process, signal.SIGKILL)
                    with suppress(PermissionError):  # a program that runs as somebody else
                        process.kill()  # it may have left its group
                    self._kill_descendants(process)
            self._drain(selector, process, _STRAGGLER_SECONDS)
            self._kill_descendants(process)
            self._drain(selector, process, self.grace)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return process.returncode, reason

    def _why_end(self, deadline: float) -> str:
        """A sentence if the step must not go on; empty otherwise."""
        now = time.monotonic()
        if self.asked_to_stop or (self.folder / files.STOP).exists():
            return "It was stopped."
        if now >= deadline:
            self.timed_out = True
            return f"It took longer than {self.timeout:g} s and was stopped."
        if now >= self._disk_due:
            self._disk_due = now + _DISK_SECONDS
            for path in (self.folder, self.cwd):
                with suppress(OSError):
                    free = shutil.disk_usage(path).free
                    if free < self.free_floor:
                        return (
                            f"The disk of {path} ran full: {free / 1e9:.2f} GB are free, and "
                            f"{self.free_floor / 1e9:g} GB must stay free. Free some space, then try again."
                        )
        return ""

    def _read(self, selector: selectors.BaseSelector, process: subprocess.Popen[bytes]) -> bool:
        """Take over what was said meanwhile, waiting a moment for it; False once there will be nothing more."""
        for key, _events in selector.select(_LOOK_SECONDS):
            if key.fileobj is self._wake_reader:
                with suppress(BlockingIOError):
                    os.read(self._wake_reader, 1024)
                continue
            with suppress(BlockingIOError):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                    return False
                self.output.write(self.cleaner.feed(data))
        return process.stdout in {key.fileobj for key in selector.get_map().values()}

    def _drain(self, selector: selectors.BaseSelector, process: subprocess.Popen[bytes], seconds: float) -> None:
        until = time.monotonic() + seconds
        while process.stdout in {key.fileobj for key in selector.get_map().values()} and time.monotonic() < until:
            self._read(selector, process)

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)

    @staticmethod
    def _kill_descendants(command: subprocess.Popen[bytes]) -> None:
        """SIGKILL everything that came of the command, also what left its session: this process adopts orphans.

        The command itself is left to ``_signal`` and ``poll``: whoever else waited for it took its exit code away.
        """
        for _round in range(5):
            descendants = psutil.Process().children(recursive=True)
            met = [child for child in descendants if child.pid != command.pid and _runs(child)]
            if not met:
                return
            for child in met:
                with suppress(psutil.Error):
                    child.kill()
            psutil.wait_procs(met, timeout=0.2)

    def _listen(self) -> None:
        """Signals wake the loop; SIGTERM means that somebody wants the step stopped."""
        self._wake_reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if self._libc is not None:
            self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def _on_stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def _reserve_end(self) -> Path:
        """Room for ``end.json``, taken while there is some: the step may fill the disk."""
        reserve = self.folder / f".{files.END}"
        descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(OSError):
            os.posix_fallocate(descriptor, 0, _END_BYTES)
        os.close(descriptor)
        return reserve

    def _write_end(self, reserve: Path, code: int | None, reason: str) -> None:
        end = {
            "exit_code": code,
            "timed_out": self.timed_out,
            "reason": reason,
            "started_at": self.started_at.isoformat(),
            "finished_at": datetime.now(UTC).isoformat(),
            "left_out_bytes": self.output.left_out,
        }
        with reserve.open("r+b") as stream:  # in place: the blocks are reserved
            stream.write(json.dumps(end).encode())
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
        reserve.rename(self.folder / files.END)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def main(arguments: list[str]) -> int:
    """Run the step of the folder. 2: there was nothing to run; nothing was begun."""
    folder = Path(arguments[0])
    spec = files.read_json(folder / files.SPEC)
    try:
        given = json.loads(sys.stdin.buffer.read())
    except ValueError:  # the worker died while it handed them over
        given = None
    if spec is None or not isinstance(given, dict):
        return 2
    shepherd = Shepherd(folder, spec, given["environ"], given["secrets"])
    shepherd.output.write(shepherd.cleaner.feed(f"$ {shlex.join(shepherd.argv)}\n".encode()))
    shepherd.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
