"""Programs that produce or take a stream: found, started in a session of their own, and never left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backups.errors import CaptureFailed
from controlplane.kernel.errors import Unavailable
from controlplane.kernel.logs import redact_text

CHUNK_BYTES = 2**20
#: What is kept of a program's complaints: their end tells why it stopped.
COMPLAINT_BYTES = 4096
_END_SECONDS = 5.0
#: Whoever reads a quick producer as soon as anything is there reads a few KiB at a time, and each time both are woken.
#: After a small piece the pipe, which holds a MiB, is given the time to fill.
_SMALL_BYTES, _PAUSE_SECONDS = CHUNK_BYTES // 8, 0.0005


def find_program(*names: str, folders: Iterable[Path] = (), package: str) -> Path:
    """The first of these programs on PATH or in ``folders``; Unavailable names the package that brings it."""
    for name in names:
        found = shutil.which(name)
        if found:
            return Path(found)
        for folder in folders:
            if os.access(folder / name, os.X_OK):
                return folder / name
    raise Unavailable(f"The program {names[0]} is not on this machine.", remedy=f"Install the package {package}.")


def own_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child gets of our environment: where programs and certificates are, never the secrets of this process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in {"PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH"}
    }
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def dying_with_us(argv: Sequence[str | Path]) -> list[str]:
    """The command, killed by the kernel when the calling thread is gone: for servers that nothing else would end.

    Where util-linux's ``setpriv`` is not installed the command is as it was.
    """
    setpriv = shutil.which("setpriv")
    return [*((setpriv, "--pdeathsig", "KILL") if setpriv else ()), *(os.fspath(part) for part in argv)]


def _pipe_bytes(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
    except OSError:  # no pipe
        return 0


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to everything that the process started in its session, and reap it. Idempotent."""
    # Only while the leader is not reaped is its number certain to be ours.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)


class Program:
    """One running program. A context manager: leaving it kills the whole process group."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        environ: Mapping[str, str] | None = None,
        takes_input: bool = False,
        **options: Any,
    ) -> None:
        self.name = Path(argv[0]).name
        try:
            self.process = subprocess.Popen(
                [os.fspath(part) for part in argv],
                stdin=subprocess.PIPE if takes_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=own_environment(environ),
                start_new_session=True,
                bufsize=0,
                **options,
            )
        except OSError as error:
            raise Unavailable(
                f"{self.name} could not be started ({error.strerror}).", remedy="See that it is installed and may run."
            ) from None
        self._interrupted = False
        self._complaint = b""
        self._listener = threading.Thread(target=self._listen, name=f"{self.name}-stderr", daemon=True)
        self._listener.start()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # an unprivileged user may have used up his share of pipe pages
                    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, CHUNK_BYTES)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def chunks(self) -> Iterator[bytes]:
        """Its standard output to the end; CaptureFailed where it was interrupted meanwhile."""
        assert self.process.stdout is not None  # noqa: S101
        descriptor = self.process.stdout.fileno()
        patient = _pipe_bytes(descriptor) >= CHUNK_BYTES
        while chunk := os.read(descriptor, CHUNK_BYTES):
            yield chunk
            if patient and len(chunk) < _SMALL_BYTES:
                time.sleep(_PAUSE_SECONDS)
        if self._interrupted:
            raise CaptureFailed(f"{self.name} was stopped before its end.", remedy="Start the backup again.")

    def write_all(self, chunks: Iterable[bytes]) -> None:
        """Feed its standard input. Chunks are read to their end even where it no longer listens: only at the end
        of a stream is it known that the stream was whole.
        """
        assert self.process.stdin is not None  # noqa: S101
        listening = True
        for chunk in chunks:
            if listening:
                try:
                    self._write(chunk)
                except BrokenPipeError:
                    listening = False
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _write(self, chunk: bytes) -> None:
        assert self.process.stdin is not None  # noqa: S101
        view = memoryview(chunk)
        while view:
            view = view[os.write(self.process.stdin.fileno(), view) :]

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Its exit code; Unavailable where it did not end in time."""
        try:
            code = self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"{self.name} did not end within {timeout_seconds:g} seconds.", remedy="See what it waits for."
            ) from None
        self._listener.join(_END_SECONDS)
        return code

    def interrupt(self) -> None:
        """From another thread: kill it, so that a blocked reader goes on and raises. Idempotent."""
        self._interrupted = True
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Leave nothing of it. Idempotent."""
        end_group(self.process)
        self._listener.join(_END_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @property
    def complaint(self) -> str:
        """The end of what it wrote to standard error, without secrets."""
        return redact_text(self._complaint.decode("utf-8", "replace").strip())

    def _listen(self) -> None:
        assert self.process.stderr is not None  # noqa: S101
        with contextlib.suppress(ValueError, OSError):  # closed under us by end()
            while data := os.read(self.process.stderr.fileno(), 65536):
                self._complaint = (self._complaint + data)[-COMPLAINT_BYTES:]


def feed(program: Program, chunks: Iterable[bytes], take: Callable[[Iterator[bytes]], None]) -> int:
    """Write ``chunks`` into the program while another thread takes its output; returns the exit code.

    What ``chunks`` raises is raised here, and the program is killed; so is what ``take`` raises.
    """
    failures: list[BaseException] = []

    def reader() -> None:
        try:
            take(program.chunks())
        except BaseException as error:  # noqa: BLE001  (raised again below, in the caller's thread)
            failures.append(error)
            program.interrupt()

    thread = threading.Thread(target=reader, name=f"{program.name}-output", daemon=True)
    thread.start()
    try:
        program.write_all(chunks)
    except BaseException:
        program.interrupt()
        thread.join()
        raise
    thread.join()
    if failures:
        raise failures[0]
    return program.wait()


def read_all(chunks: Iterable[bytes]) -> None:
    """Take and forget: where only the exit code matters."""
    for _ in chunks:
        pass
