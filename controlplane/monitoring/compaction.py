"""The files into which the processes of a service count, and what becomes of those of dead processes.

Each process writes files of its own (``<type>_<owner>.db``, in prometheus_client's format). Without care every
restart would leave some behind for ever. Here the counts of dead processes are added to one archive and their files
deleted, under a lock that readers take too, so that nothing is ever counted twice or missed:

1. a dead process' file gets a name that is never used again, ``….dead``;
2. the archive that includes it, and names it, replaces the old one in one step;
3. the file is deleted. Whoever is killed in between leaves files that the archive names (to be deleted) or does not
   name (to be added).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import structlog
from prometheus_client.mmap_dict import MmapedDict

from controlplane.kernel.errors import Unavailable

from . import processes

#: prometheus_client's reader of one file: key, value, the moment it was set, and its place.
_read_all = cast("Callable[[Path], Iterator[tuple[str, float, float, int]]]", MmapedDict.read_all_values_from_file)

log = structlog.get_logger(__name__)

ARCHIVE, LOCK = "archive.json", "metrics.lock"
#: A scrape waits this long for another one, or for a worker that tidies up.
LOCK_SECONDS = 2.0
#: Of dead processes these are added up. A dead process' gauges say nothing any more.
ADDED_UP = ("counter", "histogram", "summary")

#: Type -> key as prometheus_client writes it -> value.
Totals = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class GaugeValue:
    """What one living process says of a gauge; ``mode`` tells how those of several are put together."""

    key: str
    mode: str
    owner: str
    value: float
    set_at: float


@dataclass
class Collected:
    """All counts of a service at one moment: the parts of the sums, and the gauges of living processes."""

    sums: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {kind: {} for kind in ADDED_UP})
    gauges: list[GaugeValue] = field(default_factory=list)


def collect(folder: Path) -> Collected:
    """Read everything, after merging what dead processes left. Unavailable if the lock cannot be had."""
    collected = Collected()
    with _locked(folder, LOCK_SECONDS):
        with _survivable():
            _merge(folder)
        archive, merged = _read_archive(folder)
        for kind, totals in archive.items():
            for key, value in totals.items():
                collected.sums[kind].setdefault(key, []).append(value)
        for path in _unmerged(folder, merged):
            _add_file(collected.sums, path)
        alive = _Living()
        for path in folder.glob("*.db"):
            kind, owner = _kind_and_owner(path)
            if kind in ADDED_UP:
                _add_file(collected.sums, path)
            elif kind.startswith("gauge_") and alive(owner):
                mode = kind.removeprefix("gauge_")
                collected.gauges += [GaugeValue(key, mode, owner, value, at) for key, value, at in _entries(path)]
    return collected


def tidy(folder: Path, *, most_files: int = 0) -> int:
    """Merge what dead processes left, if there are more than ``most_files`` files and nobody is at it already.

    Returns how many files were taken away.
    """
    if len(list(folder.glob("*.db"))) <= most_files:
        return 0
    with suppress(Unavailable), _locked(folder, 0), _survivable():
        return _merge(folder)
    return 0


def _merge(folder: Path) -> int:
    """Add dead processes' files to the archive and delete them. The lock must be held."""
    archive, merged = _read_archive(folder)
    for name in merged:  # a merge that was killed before it had deleted them
        (folder / name).unlink(missing_ok=True)
    alive, gone = _Living(), 0
    for path in list(folder.glob("*.db")):
        kind, owner = _kind_and_owner(path)
        if alive(owner):
            continue
        gone += 1
        if kind in ADDED_UP:
            path.rename(path.with_name(f"{path.stem}.{secrets.token_hex(6)}.dead"))
        else:
            path.unlink()
    pending = _unmerged(folder, ())
    if not pending:
        return gone
    parts: dict[str, dict[str, list[float]]] = {
        kind: {key: [value] for key, value in archive.get(kind, {}).items()} for kind in ADDED_UP
    }
    for path in pending:
        _add_file(parts, path)
    totals = {kind: {key: sum_up(values) for key, values in keys.items()} for kind, keys in parts.items()}
    _write_archive(folder, totals, [path.name for path in pending])
    for path in pending:
        path.unlink()
    return gone


def sum_up(values: Iterable[float]) -> float:
    """The sum, never a hair less than the parts: a total that shrinks by rounding looks like a restart."""
    values = list(values)
    total = math.fsum(values)
    if total != int(total) and math.fsum([*values, -total]) > 0:
        return math.nextafter(total, math.inf)
    return total


def _unmerged(folder: Path, merged: Iterable[str]) -> list[Path]:
    done = set(merged)
    return [path for path in folder.glob("*.dead") if path.name not in done]


def _kind_and_owner(path: Path) -> tuple[str, str]:
    """``gauge_livemax_12-3456.db`` -> ``gauge_livemax`` and ``12-3456``; the same for ``….dead``."""
    kind, _, owner = path.name.split(".")[0].rpartition("_")
    return kind, owner


class _Living:
    """Whether the owners of files live; each is looked up once."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}

    def __call__(self, owner: str) -> bool:
        known = self._known.get(owner)
        if known is None:
            pid, _, started = owner.partition("-")
            known = not pid.isdigit() or processes.lives(int(pid), int(started) if started.isdigit() else None)
            self._known[owner] = known
        return known


def _add_file(sums: dict[str, dict[str, list[float]]], path: Path) -> None:
    of_kind = sums[_kind_and_owner(path)[0]]
    for key, value, _ in _entries(path):
        parts = of_kind.get(key)
        if parts is None:
            of_kind[key] = [value]
        else:
            parts.append(value)


def _entries(path: Path) -> Iterator[tuple[str, float, float]]:
    """The entries of a file, as far as they can be read: its process may have been killed while it made the file."""
    try:
        for key, value, set_at, _ in _read_all(path):
            yield key, value, set_at
    except FileNotFoundError:
        return
    except (struct.error, RuntimeError, ValueError) as error:
        if path.stat().st_size:
            log.warning("metrics_file_broken", file=path.name, error=str(error))


def _read_archive(folder: Path) -> tuple[Totals, list[str]]:
    try:
        data = json.loads((folder / ARCHIVE).read_bytes())
        return {kind: dict(data["totals"].get(kind, {})) for kind in ADDED_UP}, list(data["merged"])
    except FileNotFoundError:
        return {}, []


def _write_archive(folder: Path, totals: Mapping[str, Mapping[str, float]], merged: list[str]) -> None:
    temporary = folder / f"{ARCHIVE}.new"  # one writer at a time: the lock is held
    temporary.write_text(json.dumps({"merged": merged, "totals": totals}, separators=(",", ":")))
    temporary.replace(folder / ARCHIVE)


@contextmanager
def _survivable() -> Iterator[None]:
    """A full or read-only disk keeps dead files where they are; they are still read."""
    try:
        yield
    except OSError as error:
        log.error("metrics_not_merged", error=str(error))


@contextmanager
def _locked(folder: Path, seconds: float) -> Iterator[None]:
    """The directory to ourselves, for readers and mergers alike; Unavailable if that takes too long."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        "Another process holds the metrics' lock.", remedy="Scrape again; if it lasts, restart it."
                    ) from None
                time.sleep(0.002)
        yield
    finally:
        os.close(descriptor)
