"""Worlds: per kind of source a small living thing that can be captured, written to, spoiled and looked at.

``WORLDS`` maps a name to a builder ``(request) -> World``; a module that adds one is named in ``test_sources.py``.
Marks (a database, say) go into ``MARKS``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backups.sources.base import Source


class World(ABC):
    """Each ``change``, ``remove`` and ``add`` returns a text that a finding which speaks of it must hold."""

    #: Restoring puts back exactly what was captured: what was added since is gone afterwards.
    exact = True
    #: What a restore removes or adds may be looked at right where the source is.
    restores_in_place = True

    @abstractmethod
    def source(self) -> Source:
        """Made anew each time, as another process would."""

    @abstractmethod
    def state(self) -> Any:
        """What is live now, comparable with ``==``."""

    @abstractmethod
    def restored_state(self, token: str) -> Any:
        """What stands where the restore with this token puts things; ``state()`` for those in place."""

    @abstractmethod
    def change(self) -> str: ...

    @abstractmethod
    def remove(self) -> str: ...

    @abstractmethod
    def add(self) -> str: ...

    @abstractmethod
    def write_once(self, number: int) -> None:
        """One write of a busy client, from another thread."""

    @abstractmethod
    def empty(self) -> None:
        """Make the source such that there is nothing to save, or away: a capture must fail."""

    @contextmanager
    def busy(self) -> Iterator[Callable[[], int]]:
        """Somebody writes all the time; gives how many writes were made."""
        stop = threading.Event()
        count = 0
        failures: list[BaseException] = []

        def write() -> None:
            nonlocal count
            while not stop.is_set():
                try:
                    self.write_once(count)
                except BaseException as error:  # noqa: BLE001  (raised below, in the test's thread)
                    failures.append(error)
                    return
                count += 1
                stop.wait(0.001)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield lambda: count
        finally:
            stop.set()
            thread.join(30)
        if failures:
            raise failures[0]


Builder = Callable[[pytest.FixtureRequest], World]
WORLDS: dict[str, Builder] = {}
MARKS: dict[str, tuple[pytest.MarkDecorator, ...]] = {}


def world(name: str, *marks: pytest.MarkDecorator) -> Callable[[Builder], Builder]:
    def add(builder: Builder) -> Builder:
        WORLDS[name] = builder
        MARKS[name] = marks
        return builder

    return add


def tree(root: Path) -> dict[str, tuple[str, Any]]:
    """Everything below a directory, for comparing."""
    found: dict[str, tuple[str, Any]] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory", path.stat().st_mode & 0o777)
        else:
            found[name] = (
                "file",
                (path.stat().st_mode & 0o777, int(path.stat().st_mtime), path.read_bytes()),
            )
    return found
