"""The directory that Envoy watches. A file in it is whole or not there: Envoy reads at the moment of the renaming."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployments.errors import EdgeRefused, EdgeUnavailable

#: Whoever writes is done within milliseconds; a process that is stopped while it writes must not stop all others.
LOCK_SECONDS = 5.0


class Folder:
    """Files of JSON, replaced atomically, by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The only one who writes. EdgeRefused where that is not possible, EdgeUnavailable while others do so."""
        with self._refusals():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EdgeUnavailable(f"Another process is writing to {self.path}, and does not end.") from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def read(self, name: str) -> Any:
        """What the file holds; None if there is none that can be read."""
        try:
            return json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return None

    def age_seconds(self, name: str) -> float:
        """Since the file was written; infinite if there is none."""
        try:
            return max(0.0, time.time() - (self.path / name).stat().st_mtime)
        except OSError:
            return float("inf")

    def write(self, name: str, content: Any) -> None:
        """Replace the file. Envoy sees the renaming, and never a half-written file under its name."""
        temporary = self.path / f".{name}.{secrets.token_hex(4)}"
        with self._refusals():
            try:
                with temporary.open("x", encoding="utf-8") as file:
                    json.dump(content, file, separators=(",", ":"))
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path / name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def write_if_other(self, name: str, content: Any) -> bool:
        """Write unless the file holds that already; whether it was written."""
        if self.read(name) == content:
            return False
        self.write(name, content)
        return True

    def remove_all_but(self, prefix: str, kept: set[str]) -> None:
        """Remove the files that begin so and are not among ``kept``, and what killed writers have left."""
        for path in self.path.iterdir():
            if (path.name.startswith(prefix) and path.name not in kept) or path.name.startswith(f".{prefix}"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EdgeRefused(
                f"The edge's directory {self.path} cannot be written ({error.strerror}).",
                remedy="Make it writable for this user, or set ZANTARA_EDGE_DIR to a directory that is.",
            ) from None
