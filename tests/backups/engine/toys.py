"""A kind of source that does what its settings say: gives bytes, fails, hangs, is away."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from backups.errors import CaptureFailed
from backups.sources.base import Capture, Captured, Finding, Place, Restorer, Source
from controlplane.kernel.errors import Unavailable

CHUNK = 64 * 1024
#: A program that hangs, with a child that does.
_HANG = (
    "import subprocess, sys, os, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('x', flush=True)\n"
    "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')\n"
    "time.sleep(600)\n"
)


class ToyCapture(Capture):
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted = False

    def __enter__(self) -> ToyCapture:
        away = self._settings.get("away")
        if away is True or (isinstance(away, str) and Path(away).exists()):
            raise Unavailable("The toy did not answer.", remedy="Start it.")
        if "open" in self._settings:
            self._opened_at = time.monotonic()
            while not self._interrupted and time.monotonic() - self._opened_at < 60:
                time.sleep(0.02)
            if self._interrupted:
                raise CaptureFailed("The toy was interrupted while it was opened.")
        if "hang" in self._settings:
            self._start_to_hang(Path(self._settings["hang"]))
        if "say" in self._settings:
            raise CaptureFailed(self._settings["say"])
        return self

    def __exit__(self, *exc: object) -> None:
        self.interrupt()
        if self._process is not None:
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def chunks(self) -> Iterator[bytes]:
        if "mark" in self._settings:
            Path(self._settings["mark"]).touch()
        if "hang" in self._settings:
            yield from self._said()
            return
        for number in range(self._settings.get("chunks", 1)):
            time.sleep(self._settings.get("pause", 0))
            yield bytes([number % 256]) * CHUNK
        if self._settings.get("bug"):
            raise ZeroDivisionError("a defect")

    def _start_to_hang(self, pids: Path) -> None:
        """Until it has written both process ids: how long a program takes to start is no part of what it is for."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HANG, str(pids)], stdout=subprocess.PIPE, start_new_session=True
        )
        began = time.monotonic()
        while not (pids.exists() and len(pids.read_text().split()) == 2):
            if self._interrupted or time.monotonic() - began > 60:
                self.__exit__()
                raise CaptureFailed("The toy's program did not come so far.")
            time.sleep(0.02)

    def _said(self) -> Iterator[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        while data := self._process.stdout.read1(CHUNK):
            yield data

    def interrupt(self) -> None:
        import os
        import signal

        self._interrupted = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def finish(self) -> Captured:
        if code := self._settings.get("exit"):
            raise CaptureFailed(f"The toy exited with {code}.", remedy="Mend it.")
        warn = self._settings.get("warn")
        return Captured(
            {"chunks": self._settings.get("chunks", 1)},
            {"rows": self._settings.get("rows", 1)},
            {"toy": "1"},
            (warn,) if warn else (),
        )


class ToySource(Source):
    kind = "toy"
    label = "Toy"
    description = "Does what its settings say."
    fields = ()
    group = "databases"
    file_name = "toy.bin"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        return dict(settings)

    def check(self) -> list[Finding]:
        return []

    def capture(self, *, now: datetime, scratch: Path) -> AbstractContextManager[Capture]:
        (scratch / "leftover").write_bytes(b"x")
        return ToyCapture(self.settings)

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        raise NotImplementedError

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        raise NotImplementedError

    def restorer(self, place: Place) -> Restorer:
        raise NotImplementedError

    def expected_bytes(self) -> int | None:
        return int(self.settings.get("chunks", 1)) * CHUNK

    @classmethod
    def stock_command(cls) -> str:
        return "cat"
