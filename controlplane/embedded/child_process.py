"""One child at run time: started in a session of its own, read line by line, mourned and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import deque
from contextlib import suppress

from . import leftovers, processes
from .children import Child, Plan
from .output import LineSplitter, RotatedLog, Terminal
from .restart import Death

#: The last lines of a child that are shown when it makes the stack give up.
TAIL_LINES = 20


class ChildProcess:
    """The life of one child over all its restarts."""

    def __init__(self, child: Child, plan: Plan, terminal: Terminal, *, width: int) -> None:
        self.child, self.name = child, child.name
        self._plan, self._terminal, self._width = plan, terminal, width
        self._log = RotatedLog(plan.logs_dir / f"{child.name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self.pipe = -1  # the descriptor to read while it runs
        self._splitter = LineSplitter()
        self._started_at = 0.0
        self._dies_with_parent = processes.dies_with_parent()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.deaths: list[Death] = []
        self.start_at: float | None = None
        self.is_ready = child.ready is None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process

    def start(self) -> None:
        """Start it from a clean slate. OSError if its program cannot be run."""
        child = self.child
        if child.wipe is not None:
            shutil.rmtree(child.wipe, ignore_errors=True)
            child.wipe.mkdir(mode=0o700, parents=True)
        if child.ready_file is not None:
            child.ready_file.unlink(missing_ok=True)
        self._splitter = LineSplitter()
        reader, writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                child.argv,
                env=dict(child.environ),
                cwd=child.cwd,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._dies_with_parent,  # noqa: PLW1509  (one thread here, and one system call there)
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        self.pipe = reader
        self._started_at, self.start_at = time.monotonic(), None
        leftovers.write_mark(self._plan.marks_dir, self.name, self._process.pid)

    def read(self) -> bool:
        """Take what it wrote; False when nothing will come any more."""
        return self._take() != b""

    def has_died(self) -> bool:
        """Whether its first process is dead (and not yet reaped, where the system can tell the two apart)."""
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self._running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return self._running.poll() is not None

    def bury(self, now: float) -> int:
        """After its death: kill what is left of its session, read its last words, reap it; returns its exit code.

        The session goes first: once the leader is reaped, its number could be given to somebody else.
        """
        processes.kill_session(self._running.pid)
        # To the end, or to where a process that left the session still holds the pipe open.
        while self._take():
            pass
        for line in self._splitter.end():
            self._show(line)
        code = self._running.wait()
        os.close(self.pipe)
        self._process, self.pipe = None, -1
        leftovers.remove_mark(self._plan.marks_dir, self.name)
        self.deaths = [*self.deaths[-9:], Death(now, now - self._started_at)]
        return code

    def send(self, number: int) -> None:
        """A signal to its first process alone: a worker's pool and a server's workers are told by their parent."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL to the whole session."""
        if self._process is not None:
            processes.kill_session(self._process.pid)

    def ask_ready(self) -> bool:
        """Ask, until it has said yes once."""
        if not self.is_ready and self.is_running and self.child.ready is not None:
            self.is_ready = self.child.ready()
        return self.is_ready

    def _take(self) -> bytes | None:
        """Read and show what is there; nothing (None) now, or nothing (empty) ever again."""
        try:
            data = os.read(self.pipe, 65536)
        except BlockingIOError:
            return None
        for line in self._splitter.feed(data):
            self._show(line)
        return data

    def _show(self, line: str) -> None:
        if not line or (self.child.noise is not None and self.child.noise.fullmatch(line)):
            return
        if self.child.announces is not None and line.startswith(self.child.announces):
            self._terminal.line(line)
            return
        self.tail.append(line)
        self._log.append(line)
        self._terminal.child_line(self.name, line, width=self._width)


def describe_exit(code: int) -> str:
    """``exit code 3`` or ``SIGKILL`` for Popen's return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
