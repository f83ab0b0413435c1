"""How full this machine, or this container, is: memory in use against its limit, and connections to this service.

One thread per process looks four times a second; asking costs an attribute. Memory is that of the control group
whose limit is nearest to ours (cgroup v1 or v2), and the whole machine's only where nothing limits us.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from controlplane.kernel import clock

from .sockets import ServiceSockets

log = structlog.get_logger(__name__)

SAMPLES_PER_SECOND = 4
#: cgroup v1 says "no limit" with the largest number of whole pages, about 9.2e18.
NO_LIMIT_BYTES = 1 << 60
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Pressure:
    """What was seen at ``sampled_at`` (the monotonic clock, seconds).

    ``memory_used_bytes`` is what cannot be had back without harm: page cache that nobody maps is not in it.
    ``connections`` are the established ones to this service's address, whichever of its processes holds them.
    """

    memory_used_bytes: int
    memory_limit_bytes: int
    memory_percent: float
    connections: int
    sampled_at: float


@dataclass(frozen=True, slots=True)
class Memory:
    used_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class _Flavour:
    """How one version of control groups names its files and figures."""

    limit: str
    usage: str
    inactive_file: bytes
    active_file: bytes
    mapped_file: bytes


_V1 = _Flavour(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    b"total_inactive_file",
    b"total_active_file",
    b"total_mapped_file",
)
_V2 = _Flavour("memory.max", "memory.current", b"inactive_file", b"active_file", b"file_mapped")


def cgroup_memory(proc: Path = PROC) -> Memory | None:
    """Memory of the limited group nearest to exhaustion that this process is in; None where nothing is limited.

    "Used" is the working set: usage without inactive page cache, and without the active cache that no program
    maps (a file that was read twice is cache too). What is mapped counts: that is the code that runs here.
    """
    found = [memory for folder, flavour in _groups(proc) if (memory := _memory_of(folder, flavour)) is not None]
    return min(found, key=lambda memory: memory.limit_bytes, default=None)


def memory(proc: Path = PROC) -> Memory:
    """Of the container where it has a limit below the machine's memory, else of the machine."""
    machine = psutil.virtual_memory()
    group = cgroup_memory(proc)
    if group is not None and group.limit_bytes <= machine.total:
        return group
    return Memory(machine.total - machine.available, machine.total)


def _groups(proc: Path) -> Iterator[tuple[Path, _Flavour]]:
    """This process's memory group and its ancestors, as far as they can be seen from here."""
    paths = _own_paths(proc)
    for root, mount_point, kind, options in _mounts(proc):
        if kind == "cgroup" and "memory" in options and "memory" in paths:
            path, flavour = paths["memory"], _V1
        elif kind == "cgroup2" and "" in paths:
            path, flavour = paths[""], _V2
        else:
            continue
        # In a container the group's path is the host's, while only our part of the tree is mounted here.
        inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else "/"
        folder = Path(mount_point)
        yield folder, flavour
        for part in Path(inside).parts[1:]:
            if part == "..":
                break
            folder /= part
            yield folder, flavour


def _own_paths(proc: Path) -> dict[str, str]:
    """Controller -> path of our group; the unified hierarchy has no controller's name."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _mounts(proc: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Root, mount point, type and options of each mount of control groups."""
    try:
        lines = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield fields[3], fields[4], kind, options.split(",")


def _memory_of(folder: Path, flavour: _Flavour) -> Memory | None:
    try:
        limit = int((folder / flavour.limit).read_text())  # v2's "max" is no number
        if not 0 < limit < NO_LIMIT_BYTES:
            return None
        usage = int((folder / flavour.usage).read_text())
        lines = (folder / "memory.stat").read_bytes().splitlines()
        stat = {name: int(value) for name, _, value in (line.partition(b" ") for line in lines)}
    except (OSError, ValueError):
        return None
    unmapped = max(0, stat.get(flavour.active_file, 0) - stat.get(flavour.mapped_file, 0))
    return Memory(max(0, usage - stat.get(flavour.inactive_file, 0) - unmapped), limit)


class Sampler:
    """Looks in a thread of its own, from the first question on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets = ServiceSockets()
        self._latest: Pressure | None = None

    def current(self) -> Pressure:
        """The latest sample; the very first question of a process takes one itself."""
        return self._latest or self._start()

    def sample(self) -> Pressure:
        seen = memory()
        return Pressure(
            memory_used_bytes=seen.used_bytes,
            memory_limit_bytes=seen.limit_bytes,
            memory_percent=100 * seen.used_bytes / seen.limit_bytes,
            connections=self._sockets.established(),
            sampled_at=clock.monotonic(),
        )

    def _start(self) -> Pressure:
        with self._lock:
            if self._latest is None:
                self._latest = self.sample()
                threading.Thread(target=self._watch, name="pressure", daemon=True).start()
            return self._latest

    def _watch(self) -> None:
        while True:
            time.sleep(1 / SAMPLES_PER_SECOND)
            try:
                self._latest = self.sample()
            except (OSError, ValueError):  # a file that was there a moment ago: the last sample holds
                log.warning("pressure_not_sampled", exc_info=True)


_sampler = Sampler()


def _forget() -> None:
    global _sampler  # noqa: PLW0603  (a fork leaves the thread behind: the child begins anew)
    _sampler = Sampler()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def current() -> Pressure:
    """The pressure on this process's container and service, at most about a quarter of a second old."""
    return _sampler.current()
