"""Where targets keep what they know of instances: ``<data>/deployments/<service>/…``, for this user alone.

instances/<name>.json    the mark of a local process, written by its keeper
instances/<name>.lock    held by the keeper for as long as it lives
logs/<name>.log          what it said, and ``.1``, ``.2``
scratch/<name>/          made anew at each start
images/<version>         the id of the image that the release is
fences/<name>            the highest generation that asked for it
stops/<key>              it was asked to end
../.ports/<port>         held by the keeper whose instance has the port, where there is no Linux
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.kernel.errors import LeaseLost, Refused
from deployments.errors import TargetUnavailable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,119}")
#: So long a higher generation keeps lower ones out. Longer than any worker is away and comes back; not for ever,
#: because a restore of the control plane's own database sets its generations back.
FENCE_SECONDS = 600
#: So much of what an instance said is kept when it is forgotten.
KEPT_LOG_BYTES = 1 << 20
#: Notes of instances that are long gone are removed after so long.
_OLD_SECONDS = 7 * 86400


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one service. ``root`` is ``<data>/deployments``."""

    root: Path
    service: str

    def __post_init__(self) -> None:
        check_name(self.service)

    @property
    def folder(self) -> Path:
        return self.root / self.service

    def mark(self, name: str) -> Path:
        return self._file("instances", f"{check_name(name)}.json")

    def lock(self, name: str) -> Path:
        return self._file("instances", f"{check_name(name)}.lock")

    def log(self, name: str) -> Path:
        return self._file("logs", f"{check_name(name)}.log")

    def scratch(self, name: str) -> Path:
        return self._file("scratch", check_name(name))

    def fence(self, name: str) -> Path:
        return self._file("fences", check_name(name))

    def stop_note(self, key: str) -> Path:
        return self._file("stops", check_name(key))

    @property
    def ports(self) -> Path:
        return self.root / ".ports"

    def marks(self) -> list[Path]:
        return sorted((self.folder / "instances").glob("*.json"))

    def make(self) -> None:
        """Every folder, readable for this user alone. TargetUnavailable where that cannot be."""
        with unavailable(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in ("", "instances", "logs", "scratch", "fences", "stops", "images"):
                (self.folder / part).mkdir(mode=0o700, exist_ok=True)
            self.ports.mkdir(mode=0o700, exist_ok=True)

    def _file(self, folder: str, name: str) -> Path:
        return self.folder / folder / name

    def pin(self, release: str, image: str) -> str:
        """The id of the image that this release was first started from; ``image`` from now on, if there is none."""
        path = self._file("images", check_name(release))
        with unavailable(self.root):
            if not path.exists():
                write_whole(path, image)
            return path.read_text(encoding="ascii")

    def pinned(self, release: str) -> str:
        """What ``pin`` said; empty where it never was asked."""
        path = self._file("images", check_name(release))
        return path.read_text(encoding="ascii") if path.exists() else ""

    def keep_log(self, name: str, text: str) -> None:
        """Put this, which holds no secret, in the place of all that is left of its log."""
        write_whole(self.log(name), text)
        for older in self.log(name).parent.glob(f"{name}.log.*"):
            older.unlink(missing_ok=True)

    # --- the fence: a worker that was away and wakes up starts nothing -------------------------------------------

    def raise_fence(self, name: str, generation: int) -> None:
        """Note that ``generation`` asks for it. LeaseLost where a higher one did so a short while ago."""
        highest = self._fence(name)
        if highest is not None and highest > generation:
            raise LeaseLost(f"{name} was asked for under generation {highest}; {generation} comes too late.")
        with unavailable(self.root):
            write_whole(self.fence(name), f"{generation}\n")

    def _fence(self, name: str) -> int | None:
        path = self.fence(name)
        try:
            age = time.time() - path.stat().st_mtime
            return int(path.read_text(encoding="ascii")) if abs(age) < FENCE_SECONDS else None
        except (OSError, ValueError):
            return None

    # --- that it was asked to end, so that it is asked once ------------------------------------------------------

    def was_asked_to_stop(self, key: str) -> bool:
        return self.stop_note(key).exists()

    def note_asked_to_stop(self, key: str) -> None:
        with contextlib.suppress(OSError):  # asked twice is better than not at all
            self.stop_note(key).touch(mode=0o600)

    def sweep(self) -> None:
        """Remove fences and notes of instances that nobody has asked for in a long time."""
        for path in (*(self.folder / "fences").glob("*"), *(self.folder / "stops").glob("*")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _OLD_SECONDS:
                    path.unlink()


def check_name(name: str) -> str:
    """The name, if it may be part of a path. Refused."""
    if not NAME.fullmatch(name):
        raise Refused(f"{name!r} is no name of a service or an instance.", remedy="Use letters, digits and dashes.")
    return name


@contextlib.contextmanager
def unavailable(root: Path) -> Iterator[None]:
    """TargetUnavailable for an error of the file system."""
    try:
        yield
    except OSError as error:
        raise TargetUnavailable(
            f"The directory of instances {root} cannot be used ({error.strerror}).",
            remedy="Make it writable for this user, and see that its disk has room.",
        ) from None


def write_whole(path: Path, content: str) -> None:
    """Write a file of this user at once: a reader sees the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content.encode())
    finally:
        os.close(descriptor)
    temporary.replace(path)
