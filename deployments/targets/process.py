"""Instances that are processes of this machine, started in the release's checkout.

Each has a keeper (``keeper.py``) that outlives whoever started it, holds its port, bounds its log, notes how it ended.
An instance is known by the mark that its keeper wrote: process number, start time and boot, so that it is found again
by any worker, and no stranger with its number is ever signalled.

Limits: ``memory_mb`` is what all processes of the instance really hold (what they share counts once), looked at four
times a second; above it the instance is killed and is ``oom_killed``. A burst in between is bounded by RLIMIT_DATA for
each process, at somewhat more than twice the limit: an allocation fails then. RLIMIT_AS is not used: Go, Java and
JavaScript reserve far more addresses than they touch.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings as django_settings

from controlplane.kernel import clock
from controlplane.kernel.errors import LeaseLost, Refused
from deployments.errors import CannotStart, TargetUnavailable

from . import commands, masking, settings
from .base import InstanceSpec, Seen
from .keeper import HAS_PROC, held_soon
from .marks import Mark, boot_id, read_mark
from .places import FENCE_SECONDS, KEPT_LOG_BYTES, Places, check_name, unavailable
from .settings import Setting

KEEPER = Path(__file__).with_name("keeper.py")
#: A start takes some hundredths of a second; a keeper that says nothing for so long is given up on.
START_SECONDS = 10.0
_OTHER_SECONDS = 1.0
#: RLIMIT_DATA of a process is twice ``memory_mb`` and so much more: what an interpreter sets aside counts there.
_BURST_MB = 64
#: What a deployed service must not be told, however wide its patterns are.
OWN_SECRETS = frozenset(
    {"ZANTARA_SECRET_KEY", "ZANTARA_DATABASE_URL", "ZANTARA_FIELDS_KEY", "ZANTARA_ADMIN_PASSWORD",
     "ZANTARA_DRILL_IDENTITY_FILE", "PROMETHEUS_MULTIPROC_DIR", "DJANGO_SETTINGS_MODULE"}
)  # fmt: skip
PLACEHOLDERS = ("port", "python", "release", "slot", "name", "checkout", "scratch", "host")
SETTINGS = (
    Setting(
        "command", "", commands.command_reader(PLACEHOLDERS),
        "A program and its arguments, no shell; {port} {python} {release} {slot} {name} {checkout} {scratch} {host}.",
        required=True,
    ),
    Setting("working_directory", "", settings.text, "A directory within the checkout; by default the checkout."),
    Setting("host", "127.0.0.1", settings.address, "The address of this machine that instances listen on."),
    Setting("port_range", "20000-29999", settings.port_range, "Ports that instances may have, as 20000-29999 or 8080."),
    Setting("memory_mb", None, settings.integer(16, 1 << 20), "An instance that holds more is killed; none: no limit."),
    Setting("open_files", None, settings.integer(16, 1 << 31), "Most open files of a process; none: as this one's."),
    Setting("nice", 0, settings.integer(0, 19), "How far it stands back for the processor, 0 to 19."),
    Setting("stop_signal", "TERM", settings.stop_signal, "What asks it to end: TERM, or QUIT for nginx, say."),
    Setting(
        "inherit_environ", [], settings.names,
        "Variables that instances get from the worker's own environment, * for any ending. Never those that hold the "
        "control plane's own secrets.",
    ),
    Setting("log_mb", 10, settings.integer(1, 10_000), "At this size its log begins anew; two older ones are kept."),
)  # fmt: skip


class ProcessTarget:
    """Keeps nothing in memory: what it knows is read anew from marks and processes."""

    kind = "process"
    label = "Local processes"

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    def _places(self, service: str) -> Places:
        return Places(self._root or Path(django_settings.ZANTARA_DATA_DIR) / "deployments", service)

    def check_settings(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        read = read_settings(settings)
        directory = Path(read["working_directory"])
        if directory.is_absolute() or ".." in directory.parts:
            raise Refused("The working directory leaves the checkout.", remedy="Name a directory within it.")
        return read

    def check(self, spec: InstanceSpec) -> None:
        read = self.check_settings(spec.settings)
        check_name(spec.name)
        directory = _working_directory(spec, read)
        values = _values(spec, read, self._places(spec.service))
        program = commands.split(read["command"], values)[0]
        environ = _environ(spec, values)
        if "/" in program:
            there = directory / program
            found = there.is_file() and os.access(there, os.X_OK)
        else:
            found = shutil.which(program, path=environ["PATH"]) is not None
        if not found:
            raise CannotStart(
                f"The command of {spec.service} cannot be run: there is no program {program!r}.",
                remedy="Name one that is on the PATH or in the checkout, in the service's settings.",
            )

    def ensure(self, spec: InstanceSpec) -> Seen:
        places = self._places(spec.service)
        self.check_settings(spec.settings)
        places.make()
        places.raise_fence(spec.name, spec.generation)
        mark = read_mark(places.mark(spec.name))
        if mark is not None and mark.runs:
            return mark.seen()
        self.check(spec)
        said = _start_keeper(spec, self._order(spec, places))
        if "fenced" in said:
            raise LeaseLost(f"{spec.name} was asked for under generation {said['fenced']}; this comes too late.")
        if "refused" in said:
            raise _refusal(spec, read_settings(spec.settings), said)
        return _begun(spec, places, by_another="busy" in said).seen()

    def find(self, service: str, settings: Mapping[str, Any]) -> Sequence[Seen]:
        places = self._places(service)
        with unavailable(places.root):
            marks = [mark for path in places.marks() if (mark := read_mark(path)) is not None]
        return [mark.seen() for mark in marks if mark.service == service]

    def stop(self, seen: Seen, settings: Mapping[str, Any], *, grace_seconds: float, asked_at: datetime | None) -> None:
        places = self._places(seen.service)
        mark = read_mark(places.mark(seen.name))
        if mark is None or not mark.runs:
            return
        if asked_at is not None and clock.now() - asked_at >= timedelta(seconds=grace_seconds):
            mark.kill()
        elif not places.was_asked_to_stop(mark.token):
            mark.ask_to_end(_signal(settings))
            places.note_asked_to_stop(mark.token)

    def forget(self, seen: Seen, settings: Mapping[str, Any]) -> None:
        places = self._places(seen.service)
        mark = read_mark(places.mark(seen.name))
        places.make()
        with unavailable(places.root):
            lock = None if mark is not None and mark.runs else held_soon(str(places.lock(seen.name)))
            if lock is None:
                raise Refused(f"{seen.name} still runs.", remedy="Stop it first.")
            shutil.rmtree(places.scratch(seen.name), ignore_errors=True)
            if mark is not None:  # with the mark goes the knowledge of what must be masked
                places.keep_log(seen.name, self.log_tail(seen, settings, most_bytes=KEPT_LOG_BYTES))
            places.mark(seen.name).unlink(missing_ok=True)
            places.lock(seen.name).unlink(missing_ok=True)
            os.close(lock)
        places.sweep()

    def log_tail(self, seen: Seen, settings: Mapping[str, Any], *, most_bytes: int = 16384) -> str:
        places = self._places(seen.service)
        mark = read_mark(places.mark(seen.name))
        return masking.tail(places.log(seen.name), most_bytes, masking.unseal(mark.sealed) if mark else [])

    def _order(self, spec: InstanceSpec, places: Places) -> dict[str, Any]:
        """All that the keeper is told. Only it knows the port, so that comes as a word to be replaced."""
        read, token = read_settings(spec.settings), secrets.token_hex(8)
        values = _values(spec, read, places) | {"port": f"@port-{token}@"}
        first, last = settings.ports_of(read["port_range"])
        return {
            "argv": commands.split(read["command"], values),
            "environ": _environ(spec, values) | {"ZANTARA_INSTANCE": f"{spec.name}/{token}"},
            "cwd": str(_working_directory(spec, read)),
            "port_word": values["port"],
            "host": read["host"],
            "ports": [first, last],
            "port_hint": first + zlib.crc32(f"{places.root}/{spec.service}/{spec.name}".encode()) % (last - first + 1),
            "ports_folder": str(places.ports),
            "lock": str(places.lock(spec.name)),
            "mark": str(places.mark(spec.name)),
            "log": str(places.log(spec.name)),
            "scratch": str(places.scratch(spec.name)),
            "fence": [str(places.fence(spec.name)), FENCE_SECONDS],
            "generation": spec.generation,
            "log_bytes": read["log_mb"] << 20,
            "memory_bytes": (read["memory_mb"] or 0) << 20,
            "data_bytes": (2 * read["memory_mb"] + _BURST_MB) << 20 if read["memory_mb"] else 0,
            "open_files": read["open_files"],
            "nice": read["nice"],
            "stop_signal": int(_signal(read)),
            "mark_data": {
                "service": spec.service, "release": spec.release, "slot": spec.slot, "name": spec.name,
                "generation": spec.generation, "token": token, "boot": boot_id(), "host": read["host"],
                "sealed": masking.seal([*spec.secret_environ.values(), *_secrets_before(spec, places)]),
            },
        }  # fmt: skip


def read_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    return settings.read_settings("process", SETTINGS, given)


def _signal(read: Mapping[str, Any]) -> signal.Signals:
    return signal.Signals[f"SIG{read.get('stop_signal') or 'TERM'}"]


def _working_directory(spec: InstanceSpec, read: Mapping[str, Any]) -> Path:
    """Where the command is started; CannotStart where that is no directory of the checkout."""
    if spec.checkout is None or not spec.checkout.is_dir():
        raise CannotStart(
            f"{spec.service} {spec.release} has no checkout on this machine.",
            remedy="Deploy a release whose source is a directory or a git repository.",
        )
    directory = (spec.checkout / str(read["working_directory"])).resolve()
    if not directory.is_relative_to(spec.checkout.resolve()) or not directory.is_dir():
        raise CannotStart(
            f"The checkout of {spec.service} {spec.release} has no directory {read['working_directory']!r}.",
            remedy="Correct the service's working directory, or deploy a release that has it.",
        )
    return directory


def _values(spec: InstanceSpec, read: Mapping[str, Any], places: Places) -> dict[str, str]:
    """Placeholder -> value; ``{python}`` is the checkout's own environment if its build made one."""
    checkout = spec.checkout or Path("/")
    own = checkout / ".venv" / "bin" / "python"
    return {
        "port": "0", "python": str(own) if own.exists() else sys.executable, "release": spec.release,
        "slot": str(spec.slot), "name": spec.name, "checkout": str(checkout), "host": read["host"],
        "scratch": str(places.scratch(spec.name)),
    }  # fmt: skip


def _environ(spec: InstanceSpec, values: Mapping[str, str]) -> dict[str, str]:
    """A small base, the service's variables, and what every instance is told. Nothing else of the control plane's."""
    base = {"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8"}
    base |= {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if os.environ.get(name)}
    return {
        **base,
        "ZANTARA_SERVICE_PORT": values["port"],
        **inherited(read_settings(spec.settings)["inherit_environ"], os.environ),
        **commands.fill_environ(spec.environ, values),
        **{name: str(value) for name, value in spec.secret_environ.items()},
        "PORT": values["port"],
        "ZANTARA_RELEASE": spec.release,
    }


def inherited(patterns: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Those of the worker's variables that the service asks for, without what only the control plane may know."""
    return {
        name: value
        for name, value in environ.items()
        if not {name, name.removesuffix("_FILE")} & OWN_SECRETS
        and any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _secrets_before(spec: InstanceSpec, places: Places) -> list[str]:
    """Those of the start before this one: its lines are still in the log."""
    mark = read_mark(places.mark(spec.name))
    return (masking.unseal(mark.sealed) or []) if mark is not None else []


def _start_keeper(spec: InstanceSpec, order: Mapping[str, Any]) -> dict[str, Any]:
    """Start a keeper and hear what came of it; TargetUnavailable where it says nothing."""
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", *(["-S"] if HAS_PROC else []), str(KEEPER), spec.service, spec.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
            env={"PATH": os.defpath, "LANG": "C.UTF-8"}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise TargetUnavailable(f"No process can be started ({error.strerror}).") from None
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  (both are pipes)
    said = b""
    with process.stdout, process.stdin:
        try:
            process.stdin.write(json.dumps(order).encode())
            process.stdin.close()
            deadline = clock.monotonic() + START_SECONDS
            while not said.endswith(b"\n") and (left := deadline - clock.monotonic()) > 0:
                if select.select([process.stdout], [], [], left)[0]:
                    data = os.read(process.stdout.fileno(), 65536)
                    if not data:
                        break
                    said += data
        except BrokenPipeError:
            pass
    # The one that was started here has forked and ended by now, unless it never came so far.
    if not said:
        process.kill()
    process.wait()
    try:
        table = json.loads(said)
    except ValueError:
        raise TargetUnavailable(f"The keeper of {spec.name} did not say whether it started it.") from None
    return table if isinstance(table, dict) else {}


def _begun(spec: InstanceSpec, places: Places, *, by_another: bool) -> Mark:
    """The mark of what was just started. Another worker's keeper may hold the lock and be about to write it."""
    deadline = clock.monotonic() + _OTHER_SECONDS
    while True:
        mark = read_mark(places.mark(spec.name))
        if mark is not None and (mark.runs or not by_another):
            return mark
        if clock.monotonic() > deadline:
            raise TargetUnavailable(f"{spec.name} is being started by another worker, or has ended already.")
        time.sleep(0.01)


def _refusal(spec: InstanceSpec, read: Mapping[str, Any], said: Mapping[str, Any]) -> Exception:
    """The keeper's one word as a sentence."""
    why, cause = str(said.get("why", "")), said["refused"]
    if cause == "port":
        first, last = settings.ports_of(read["port_range"])
        what = f"Port {first} is taken{_holder(first)}" if first == last else f"The ports {first} to {last} are taken"
        return CannotStart(f"{what}.", remedy="Free it, or give the service another port_range.")
    if cause == "host":
        return CannotStart(f"This machine has no address {read['host']}.", remedy="Correct the service's host.")
    if cause == "limits":
        return CannotStart(
            f"The limits of {spec.service} cannot be set ({why}).",
            remedy="Lower open_files or memory_mb: they are above what this user may have.",
        )
    if cause == "files":
        return TargetUnavailable(
            f"The files of {spec.name} cannot be written ({why}).", remedy="See that the data directory has room."
        )
    return CannotStart(
        f"The command of {spec.service} cannot be run ({why}).",
        remedy="See that it exists, may be executed, and that its interpreter is there.",
    )


def _holder(port: int) -> str:
    """“ by nginx (pid 812)”, where this user may know."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                pid = connection.pid
                return f" by {psutil.Process(pid).name()} (pid {pid})" if pid else ""
    except (psutil.Error, OSError):
        pass
    return ""
