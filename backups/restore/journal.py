"""The journal of a restore: a file outside every restored source that knows enough to go on or back without the row.

``<data>/restores/<name>.json``, for this user alone, replaced as a whole by each write (temporary name, fsync,
rename, fsync of the directory). Whoever works on it holds a lock on the file beside it that the kernel takes away
with its process: nobody ever unlocks anything by hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from django.conf import settings

from backups.errors import RestoreFailed
from controlplane.kernel.errors import Refused

log = structlog.get_logger(__name__)

FORMAT = 1
KEPT_DAYS = 90
_SCRAPS_SECONDS = 86400
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
#: States after which nothing is left to be done.
FINISHED = frozenset({"done", "rolled_back", "failed", "refused", "cancelled"})


def folder() -> Path:
    """``<data>/restores``, made where it is missing."""
    path = Path(settings.ZANTARA_DATA_DIR) / "restores"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@dataclass
class SetState:
    """Where a set is, and the target that holds it; its credential only as the database would hold it."""

    record_name: str
    prefix: str
    manifest_sha256: str
    target: dict[str, Any]
    record_id: int | None = None


@dataclass
class PartState:
    """One part on its way back. ``memory`` is its Restorer's; ``swap`` says whether the live data were touched."""

    name: str
    kind: str
    settings: dict[str, Any]
    secrets: str  # encrypted as in the database
    position: int
    plain_bytes: int
    token: str
    memory: dict[str, Any] = field(default_factory=dict)
    swap: Literal["no", "begun", "done", "undone", "from_safety"] = "no"
    discarded: bool = False
    #: Where undoing from memory failed: the Restorer that puts the safety backup back, and what it remembers.
    fallback_memory: dict[str, Any] = field(default_factory=dict)
    left_behind: str = ""


@dataclass
class ServiceState:
    """One service that this restore stops. Written before it is stopped, so that no death leaves it stopped."""

    name: str
    control: dict[str, Any]
    was_running: bool | None
    stopped: bool = False
    started: bool = False


@dataclass
class StepState:
    """What happened, in order; the row and the page show the same list."""

    step: str
    artifact: str
    status: Literal["running", "done", "failed"]
    started_at: str
    finished_at: str = ""
    detail: str = ""


@dataclass
class Journal:
    """Everything about one restore. Change it, then ``save()``: what is not saved has not happened."""

    name: str
    mode: Literal["online", "offline"]
    created_at: str
    host: str
    requested_by: str
    reason: str
    options: dict[str, Any]
    set: SetState
    parts: list[PartState] = field(default_factory=list)
    safety: SetState | None = None
    safety_asked_for: int | None = None
    services: list[ServiceState] = field(default_factory=list)
    answering: list[str] = field(default_factory=list)
    steps: list[StepState] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    state: str = "queued"
    going: Literal["forward", "back"] = "forward"
    failure: str = ""
    score: int | None = None
    identity_file: str = ""
    row_id: int | None = None
    finished_at: str = ""

    # --- the file ----------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return path_of(self.name)

    def save(self) -> None:
        """Durable when this returns. RestoreFailed where the data directory cannot be written."""
        body = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False).encode()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise RestoreFailed(
                f"The journal {self.path} cannot be written ({error.strerror}).",
                remedy="Free space in the data directory and make it writable.",
            ) from error

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    def work_folder(self) -> Path:
        """Where this restore's Restorers may put things; removed at its end."""
        return folder() / "work" / self.name

    # --- steps -------------------------------------------------------------------------------

    def begin(self, step: str, artifact: str, now: datetime) -> StepState:
        state = StepState(step, artifact, "running", now.isoformat())
        self.steps.append(state)
        return state

    def part(self, name: str) -> PartState:
        return next(part for part in self.parts if part.name == name)


def path_of(name: str) -> Path:
    """The journal's file; Refused for a name that is none."""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is not the name of a restore.")
    return folder() / f"{name}.json"


def lock_of(name: str) -> Path:
    """The file that whoever works on the restore has locked."""
    return path_of(name).with_suffix(".lock")


def load(name: str) -> Journal | None:
    """The journal, None where this machine has none; RestoreFailed where the file is not one."""
    path = path_of(name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _from_json(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RestoreFailed(
            f"The journal {path} cannot be read ({type(error).__name__}).",
            remedy="It says what was swapped; do not delete it. Put a readable copy back, or restore by hand.",
        ) from error


def _from_json(data: Mapping[str, Any]) -> Journal:
    data = dict(data)
    if data.pop("format") != FORMAT:
        raise ValueError("another format")
    data["set"] = SetState(**data["set"])
    data["safety"] = SetState(**data["safety"]) if data["safety"] else None
    data["parts"] = [PartState(**part) for part in data["parts"]]
    data["services"] = [ServiceState(**service) for service in data["services"]]
    data["steps"] = [StepState(**step) for step in data["steps"]]
    return Journal(**data)


def set_aside(name: str) -> None:
    """Keep a journal that cannot be read under another name, for a person to look at."""
    path_of(name).replace(path_of(name).with_suffix(".unreadable"))


def prune(now: datetime) -> int:
    """Remove journals of restores that ended long ago; how many. What is unfinished or unreadable stays."""
    removed = 0
    for path in folder().glob(".*"):  # of a process that was killed while it wrote or looked
        if now.timestamp() - path.stat().st_mtime > _SCRAPS_SECONDS:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in folder().glob("*.json"):
        if now.timestamp() - path.stat().st_mtime < KEPT_DAYS * 86400 or path.name.startswith("."):
            continue
        with suppress(RestoreFailed):
            journal = load(path.stem)
            if journal is not None and journal.is_finished:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def unfinished() -> Iterator[Journal]:
    """Every restore of this machine that has neither ended well nor been taken back, oldest first."""
    found = []
    for path in folder().glob("*.json"):
        if not path.name.startswith("."):
            try:
                journal = load(path.stem)
            except RestoreFailed as error:  # one that cannot be read keeps nobody from the others
                log.error("restore_journal_unreadable", journal=str(path), error=str(error))
                continue
            if journal is not None and not journal.is_finished:
                found.append(journal)
    yield from sorted(found, key=lambda journal: (journal.created_at, journal.name))


@contextmanager
def held(name: str) -> Iterator[bool]:
    """Whether this process is now the only one on this machine that works on the restore.

    A worker that was given up for dead but lives still holds it: nobody works beside it.
    """
    descriptor = os.open(lock_of(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
