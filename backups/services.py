"""The services that a restore can stop and start: rows with commands, and the children of the one-machine stack.

Both kinds can be written into a restore's journal and made again from it, so that a service which was stopped is
started even where the database that named it is gone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import structlog
from django.conf import settings

from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError, Refused, Unavailable
from controlplane.kernel.logs import redact_text
from controlplane.kernel.ports import ServiceControl, all_service_controls, service_controls

logger = structlog.get_logger(__name__)

#: Of what a command said, so much goes into the message.
TAIL_BYTES = 4096
POLL_SECONDS = 0.1
#: The stack's children that nothing here may stop: the broker, and the worker that carries the restore out.
NEVER_HELD = frozenset({"redis", "bootstrap", "worker-proof"})
_CREDENTIAL = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|_KEY$|^ZANTARA_(DATABASE|REDIS)_URL|^ZANTARA_DRILL_")


def split_command(text: str, what: str) -> tuple[str, ...]:
    """The argument list of a command line; Refused where it has none or its quotes do not match."""
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        raise Refused(f"The {what} cannot be read: {error}.", remedy="Close its quotation marks.") from None
    if not argv:
        raise Refused(f"The {what} is empty.", remedy="Give a program and its arguments.")
    return argv


@dataclass(frozen=True)
class CommandControl:
    """A service that three commands stop, start and ask after. They are run as they are, never by a shell."""

    name: str
    label: str
    stop_argv: tuple[str, ...]
    start_argv: tuple[str, ...]
    status_argv: tuple[str, ...] = ()
    timeout_seconds: float = 60

    def stop(self, *, timeout_seconds: float | None = None) -> None:
        deadline = time.monotonic() + (timeout_seconds or self.timeout_seconds)
        if self.is_running() is not False:
            self._run(self.stop_argv, "stop", deadline)
            self._wait(running=False, deadline=deadline)

    def start(self, *, timeout_seconds: float | None = None) -> None:
        deadline = time.monotonic() + (timeout_seconds or self.timeout_seconds)
        if self.is_running() is not True:
            self._run(self.start_argv, "start", deadline)
            self._wait(running=True, deadline=deadline)

    def is_running(self) -> bool | None:
        """Exit 0 of the status command; None without one, or where it cannot be run."""
        if not self.status_argv:
            return None
        try:
            return _run_command(self.status_argv, time.monotonic() + min(10.0, self.timeout_seconds))[0] == 0
        except OSError:  # or it hung
            return None

    def _run(self, argv: Sequence[str], verb: str, deadline: float) -> None:
        remedy = f"Run it by hand ({shlex.quote(argv[0])} …), or correct the {verb} command of {self.name}."
        try:
            code, said = _run_command(argv, deadline)
        except TimeoutError:  # an OSError too
            raise Unavailable(
                f"The {verb} command of {self.label} did not end in time and was killed.", remedy=remedy
            ) from None
        except OSError as error:
            raise Unavailable(
                f"The {verb} command of {self.label} cannot be run ({error.strerror}).", remedy=remedy
            ) from None
        if code != 0:
            raise Unavailable(
                f"The {verb} command of {self.label} ended with exit code {code}{f': {said}' if said else ''}.",
                remedy=remedy,
            )

    def _wait(self, *, running: bool, deadline: float) -> None:
        if not self.status_argv:
            return  # the exit code is all that there is
        if not _poll(lambda: self.is_running() is running, deadline):
            verb = "start" if running else "stop"
            raise Unavailable(
                f"{self.label} did not {verb}: its status command still says so.",
                remedy=f"Look at the service, or correct the status command of {self.name}.",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "command",
            "name": self.name,
            "label": self.label,
            "stop": list(self.stop_argv),
            "start": list(self.start_argv),
            "status": list(self.status_argv),
            "timeout_seconds": self.timeout_seconds,
        }


@dataclass(frozen=True)
class ChildControl:
    """A child of the running ``manage.py up``. Its supervisor keeps it stopped while ``run/held/<child>`` is there."""

    name: str
    data_dir: Path

    @property
    def label(self) -> str:
        return f"{self.name} (of the stack on this machine)"

    def stop(self, *, timeout_seconds: float) -> None:
        held = self._held()
        held.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        held.write_text("held by a restore\n", encoding="ascii")
        if not _poll(lambda: self.is_running() is False, time.monotonic() + timeout_seconds):
            raise Unavailable(
                f"{self.name} did not stop within {timeout_seconds:.0f} s.",
                remedy=f"See {self.data_dir / 'logs' / (self.name + '.log')}.",
            )

    def start(self, *, timeout_seconds: float) -> None:
        self._held().unlink(missing_ok=True)
        if not stack_is_up(self.data_dir):
            return  # nothing holds it any more; it starts with the stack
        if not _poll(lambda: self.is_running() is True and self._answers(), time.monotonic() + timeout_seconds):
            raise Unavailable(
                f"{self.name} does not answer {timeout_seconds:.0f} s after it was let go.",
                remedy=f"See {self.data_dir / 'logs' / (self.name + '.log')}.",
            )

    def is_running(self) -> bool | None:
        """By the mark that the supervisor keeps while any process of the child's session lives."""
        try:
            mark = json.loads((self.data_dir / "run" / "children" / f"{self.name}.json").read_text(encoding="utf-8"))
            return psutil.pid_exists(int(mark["pid"]))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _held(self) -> Path:
        return self.data_dir / "run" / "held" / self.name

    def _answers(self) -> bool:
        if self.name.startswith("worker-"):
            return (self.data_dir / "run" / "ready" / self.name).exists()
        url = self._url()
        return url is None or _http_ok(url)

    def _url(self) -> str | None:
        env = Env()
        if self.name == "web":
            return f"http://127.0.0.1:{env.port('ZANTARA_WEB_PORT', 8000)}/livez"
        if self.name == "chroma" and (base := getattr(settings, "ZANTARA_CHROMA_URL", None)):
            return f"{base.rstrip('/')}/api/v2/heartbeat"
        return None

    def to_json(self) -> dict[str, Any]:
        return {"kind": "child", "name": self.name, "data_dir": str(self.data_dir)}


def controls_of_rows() -> list[ServiceControl]:
    """The provider for the services that administrators described; one with an unusable command is left out."""
    from backups.models import ControlledService

    found: list[ServiceControl] = []
    for row in ControlledService.objects.all():
        try:
            found.append(
                CommandControl(
                    name=row.name,
                    label=row.name,
                    stop_argv=split_command(row.stop_command, "stop command"),
                    start_argv=split_command(row.start_command, "start command"),
                    status_argv=split_command(row.status_command, "status command") if row.status_command else (),
                    timeout_seconds=row.timeout_seconds,
                )
            )
        except Refused as error:
            logger.warning("service_control_unusable", service=row.name, error=error.message)
    return found


def controls_of_stack() -> list[ServiceControl]:
    """The provider for the children of ``manage.py up``; none where it does not run on this data directory."""
    data_dir = Path(settings.ZANTARA_DATA_DIR)
    if not stack_is_up(data_dir):
        return []
    names = {path.stem for path in (data_dir / "run" / "children").glob("*.json")}
    names |= {path.name for path in (data_dir / "run" / "held").glob("*")}
    return [ChildControl(name, data_dir) for name in sorted(names - NEVER_HELD) if not name.startswith(".")]


def register_service_controls() -> None:
    """Add both providers to the port of the kernel."""
    service_controls.add("commands", controls_of_rows)
    service_controls.add("stack", controls_of_stack)


def stack_is_up(data_dir: Path) -> bool:
    """Whether a ``manage.py up`` holds the lock of this data directory; the kernel lets go of it when it dies."""
    import fcntl

    try:
        descriptor = os.open(data_dir / "run" / "up.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def to_journal(control: ServiceControl) -> dict[str, Any]:
    """What a journal must know to start the service again: all of it, or its name where another room brings it."""
    if isinstance(control, CommandControl | ChildControl):
        return control.to_json()
    return {"kind": "port", "name": control.name}


def from_journal(data: Mapping[str, Any]) -> ServiceControl:
    """The control again. ConfigurationError where another room brought it and does not any more."""
    if data["kind"] == "command":
        return CommandControl(
            name=data["name"],
            label=data["label"],
            stop_argv=tuple(data["stop"]),
            start_argv=tuple(data["start"]),
            status_argv=tuple(data["status"]),
            timeout_seconds=data["timeout_seconds"],
        )
    if data["kind"] == "child":
        return ChildControl(data["name"], Path(data["data_dir"]))
    try:
        return all_service_controls()[data["name"]]
    except KeyError:
        raise ConfigurationError(
            f"Nothing here can start or stop {data['name']} any more.", remedy="Start it by hand."
        ) from None


def _run_command(argv: Sequence[str], deadline: float) -> tuple[int, str]:
    """Run it in a process group of its own; its exit code and the end of what it said.

    Output goes to a file: a daemon that a start command leaves behind may keep it open for ever.
    """
    environ = {name: value for name, value in os.environ.items() if not _CREDENTIAL.search(name)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            list(argv),
            env=environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise TimeoutError from None
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - TAIL_BYTES))
        return code, redact_text(output.read(TAIL_BYTES).decode("utf-8", "replace").strip())


def _poll(is_so: Callable[[], bool], deadline: float) -> bool:
    """Ask until it is so; bounded by the deadline, at least once."""
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _http_ok(url: str) -> bool:
    encrypted = not url.startswith("http:")  # else no certificates need be read: that takes 50 ms
    try:
        answer = httpx2.get(url, timeout=1.0, trust_env=False, verify=encrypted, follow_redirects=False)
        return answer.status_code == 200
    except httpx2.HTTPError:
        return False
