"""The keeper of one local instance: starts its command, writes its mark, sees how it ends.

A program of its own, run with nothing but the standard library (about 5 MB): it outlives the worker that started it,
and is the only writer of its instance's mark. What it is to do comes as JSON on standard input; one line of JSON on
standard output says what came of the start. From then on it speaks through the mark alone.

* Its lock is held for as long as it lives: of two starters at once one starts, the other finds it.
* The command is held back behind a pipe until the mark names it: a kill at any moment leaves an instance that is
  known, or none.
* SIGTERM asks the instance to end, once. When the command ends, everything that it left is killed.
* If the keeper is killed, the instance lives on and is found by its mark; only how it ends is not known then.
"""

# A keeper is to stay small: no pathlib.
# ruff: noqa: PTH102, PTH105, PTH108, PTH110, PTH116, PTH123, PTH208
from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, NoReturn

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
#: How often it looks at the log, and, where there is a limit, at the memory.
_LOOK_SECONDS, _LOOK_AT_MEMORY_SECONDS = 1.0, 0.25
HAS_PROC = os.path.exists("/proc/self/stat")
Table = dict[str, Any]


class CannotStart(Exception):
    """The start ends here; the table goes back to whoever asked."""

    def __init__(self, **said: Any) -> None:
        super().__init__(said)
        self.said = said


def content_of(path: str) -> bytes:
    """Nothing where it cannot be read: the process has gone."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""


def start_of(pid: int) -> int | None:
    """As ``controlplane.monitoring.processes.start_of``."""
    if not HAS_PROC:  # then the keeper is run with its installation's packages
        import psutil

        with suppress(psutil.Error):
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 1e6)
    fields = content_of(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return None if not fields or fields[0] in b"ZXx" else int(fields[19])


def lives(pid: int, started: Any) -> bool:
    """Whether this very process still runs: a number alone may be somebody else's by now."""
    return (found := start_of(pid)) is not None and found == started


def children_of(pid: int) -> list[int]:
    """Its children, dead ones that nobody asked for among them."""
    with suppress(OSError):
        tasks = os.listdir(f"/proc/{pid}/task")
        return [int(n) for task in tasks for n in content_of(f"/proc/{pid}/task/{task}/children").split()]
    return []


def family_of(pid: int) -> list[int]:
    """All that came of it, itself not."""
    return [one for child in children_of(pid) for one in (child, *family_of(child))]


def memory_of(pids: list[int], *, exact: bool) -> int:
    """Bytes that they hold together; ``exact``: what they share counts once."""
    if not exact:
        held_pages = [content_of(f"/proc/{pid}/statm").split() for pid in pids]
        return sum(int(fields[1]) for fields in held_pages if fields) * resource.getpagesize()
    shares = [content_of(f"/proc/{pid}/smaps_rollup").partition(b"\nPss:")[2].split() for pid in pids]
    return sum(int(fields[0]) for fields in shares if fields) * 1024


def oom_kills() -> int:
    """How often the kernel has killed for memory, since boot."""
    counted = content_of("/proc/vmstat").partition(b"\noom_kill ")[2].split()
    return int(counted[0]) if counted else 0


def write_mark(path: str, mark: Table) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(mark, file)
    os.replace(temporary, path)


def read_mark(path: str) -> Table:
    with suppress(ValueError):
        mark = json.loads(content_of(path))
        return mark if isinstance(mark, dict) else {}
    return {}


def held(path: str) -> int | None:
    """The descriptor of a lock that is ours until we end; None where somebody else holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):  # whoever removed it held it: there is a new one now
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        os.close(descriptor)


def held_soon(path: str) -> int | None:
    """As ``held``, where whoever holds it has noted the end and is about to be gone."""
    for _ in range(200):
        if (descriptor := held(path)) is not None:
            return descriptor
        time.sleep(0.005)
    return None


def keep_small(path: str, most_bytes: int, keep: int = 2) -> None:
    """Copy a log that has grown too large away, and empty it. The writer goes on: it appends."""
    try:
        size = os.stat(path).st_size
    except OSError:
        return
    if size <= most_bytes:
        return
    for number in range(keep - 1, 0, -1):
        with suppress(OSError):
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    with suppress(OSError):  # a full disk: then emptying it is the more important part
        with open(path, "rb") as old, open(f"{path}.1.tmp", "wb") as new:
            os.fchmod(new.fileno(), 0o600)
            begin = size - most_bytes  # and no further than what was there: its writer may be faster than we are
            while begin < size and (sent := os.sendfile(new.fileno(), old.fileno(), begin, size - begin)):
                begin += sent
        os.replace(f"{path}.1.tmp", f"{path}.1")
    with suppress(OSError):
        os.truncate(path, 0)


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens there. Without SO_REUSEPORT, which would let two servers share it in silence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is in TIME_WAIT is no listener
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise CannotStart(refused="host") from None
            return False
    return True


def reserved(folder: str, port: int) -> int | None:
    """Ours until we end, whatever data directory others use: between a look at a port and a listener on it lies a whole
    start. Linux has names for that; elsewhere the folder's lock must do. None where somebody has it."""
    if not HAS_PROC:
        return held(f"{folder}/{port}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name, suppress(OSError):
        name.bind(f"\0zantara-port-{port}")
        return name.detach()
    return None


def take_port(order: Table, before: Any) -> int:
    """The port that it had, else the next free one of its range; held until this keeper ends."""
    first, last = order["ports"]
    wanted = before if isinstance(before, int) and first <= before <= last else order["port_hint"]
    for step in range(last - first + 1):
        port: int = first + (wanted - first + step) % (last - first + 1)
        if (descriptor := reserved(order["ports_folder"], port)) is not None:
            if is_free(order["host"], port):
                return port
            os.close(descriptor)
    raise CannotStart(refused="port")


def run_command(order: Table, argv: list[str], environ: dict[str, str], gate: int, trouble: int) -> NoReturn:
    """In the child: wait for the gate, put the limits on, and become the command. Never returns."""
    step = "start"
    try:
        if os.read(gate, 1) != b"1":
            os._exit(127)  # the keeper died before anybody knew of us
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        step = "limits"
        for limit, value in (
            (resource.RLIMIT_NOFILE, order["open_files"]),
            (resource.RLIMIT_DATA, order["data_bytes"]),
        ):
            if value:
                resource.setrlimit(limit, (value, value))
        os.nice(order["nice"])
        step = "directory"
        os.chdir(order["cwd"])
        step = "command"
        os.execvpe(argv[0], argv, environ)  # noqa: S606
    except BaseException as error:  # noqa: BLE001  (this process is a copy of the keeper: nothing may go on in it)
        with suppress(OSError):
            os.write(trouble, json.dumps([step, getattr(error, "strerror", None) or str(error)]).encode())
    os._exit(127)


class Keeper:
    """One start of one instance, to its end."""

    def __init__(self, order: Table) -> None:
        self.order, self.mark = order, Table()
        self.child, self.asked, self.too_large = 0, False, False
        self.oom_before = oom_kills()

    def start(self) -> None:
        """Up to the running command and its mark; CannotStart."""
        order = self.order
        if (held_soon if "ended_at" in read_mark(order["mark"]) else held)(order["lock"]) is None:
            raise CannotStart(busy=True)
        before = read_mark(order["mark"])
        child = before.get("child") or {}
        if before.get("boot") == order["mark_data"]["boot"] and child and lives(child["pid"], child["started"]):
            raise CannotStart(busy=True)  # its keeper was killed; it lives
        highest = self._fence()
        if highest > order["generation"]:
            raise CannotStart(fenced=highest)
        port = take_port(order, before.get("port"))
        shutil.rmtree(order["scratch"], ignore_errors=True)
        os.mkdir(order["scratch"], 0o700)
        keep_small(order["log"], order["log_bytes"])
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)
        self._fork(port, log, starts=int(before.get("starts", 0)) + 1)

    def _fence(self) -> int:
        path, seconds = self.order["fence"]
        with suppress(OSError, ValueError):
            return int(content_of(path)) if abs(time.time() - os.stat(path).st_mtime) < seconds else 0
        return 0

    def _fork(self, port: int, log: int, *, starts: int) -> None:
        order, filled = self.order, str(port)
        argv = [word.replace(order["port_word"], filled) for word in order["argv"]]
        environ = {name: value.replace(order["port_word"], filled) for name, value in order["environ"].items()}
        gate, open_gate = os.pipe()
        trouble, tell = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.setpgid(0, 0)
            os.close(open_gate)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(log, 1)
            run_command(order, argv, environ, gate, tell)
        os.close(gate)
        os.close(tell)
        self.mark = {
            **order["mark_data"],
            "port": port, "starts": starts, "started_at": now(),
            "keeper": {"pid": os.getpid(), "started": start_of(os.getpid())},
            "child": {"pid": self.child, "started": start_of(self.child)},
        }  # fmt: skip
        write_mark(order["mark"], self.mark)
        os.write(open_gate, b"1")
        os.close(open_gate)
        said = os.read(trouble, 4096)  # nothing, at the moment in which it becomes the command
        os.close(trouble)
        if said:
            os.waitpid(self.child, 0)
            os.unlink(order["mark"])
            step, why = json.loads(said)
            raise CannotStart(refused=step, why=why)

    # --- while it runs, and its end ------------------------------------------------------------------------------

    def watch(self, wake: int) -> None:
        """Until the command has ended; then nothing of it is left, and the mark says how it ended."""
        pause = _LOOK_AT_MEMORY_SECONDS if self.order["memory_bytes"] else _LOOK_SECONDS
        while True:
            if select.select([wake], [], [], pause)[0] and signal.SIGTERM in os.read(wake, 512) and not self.asked:
                self.asked = True
                with suppress(ProcessLookupError):
                    os.kill(self.child, self.order["stop_signal"])
            ended = self._reap()
            if ended is not None:
                break
            keep_small(self.order["log"], self.order["log_bytes"])
            self._look_at_memory()
        self._kill_the_rest()
        code = os.waitstatus_to_exitcode(ended)
        by_kernel = code == -signal.SIGKILL and not self.asked and oom_kills() > self.oom_before
        self.mark |= {
            "ended_at": now(),
            "exit_code": code if code >= 0 else 128 - code,
            "oom_killed": self.too_large or by_kernel,
        }
        write_mark(self.order["mark"], self.mark)

    def _reap(self) -> int | None:
        """Ask for every dead child, adopted ones too; the command's status if it was among them."""
        ended = None
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.child:
                    ended = status
        return ended

    def _look_at_memory(self) -> None:
        most = self.order["memory_bytes"]
        if not most:
            return
        family = family_of(os.getpid())
        if memory_of(family, exact=False) > most and memory_of(family, exact=True) > most:
            self.too_large = True
            print(f"-- killed: it held more than {most >> 20} MB", file=sys.stderr, flush=True)  # noqa: T201
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _kill_the_rest(self) -> None:
        """Orphans come to us, whatever session they made: kill until there are none."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child, signal.SIGKILL)
        for _ in range(200):
            self._reap()
            left = family_of(os.getpid())
            if not left:
                return
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def now() -> str:
    return datetime.now(timezone.utc).isoformat()  # noqa: UP017  (the same on every Python 3)


def say(table: Table) -> None:
    """Tell the starter, who may be gone; after that standard output is nobody's."""
    with suppress(OSError):
        os.write(1, json.dumps(table).encode() + b"\n")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def main() -> None:
    """Run as ``python -I -S keeper.py SERVICE NAME < order``."""
    order = json.load(sys.stdin)
    if os.fork():
        os._exit(0)  # the starter waits for this one, and is nobody's parent then
    os.setsid()
    os.umask(0o077)
    os.chdir("/")
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    keeper = Keeper(order)
    try:
        keeper.start()
    except CannotStart as error:
        say(error.said)
        return
    except OSError as error:
        say({"refused": "files", "why": error.strerror or str(error)})
        return
    say({"running": True})
    keeper.watch(wake)
    os._exit(0)  # at once: the next start waits for the lock


if __name__ == "__main__":
    main()
