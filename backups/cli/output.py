"""Where a command writes: one JSON document, or lines and tables for people, with a bar where there is a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from django.core.serializers.json import DjangoJSONEncoder
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn
from rich.table import Table

from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError

POLL_SECONDS = 0.5
#: After so long without a worker the line says what is wrong, and the waiting goes on.
NO_WORKER_SECONDS = 20.0


class Output:
    """One command's output. ``as_json``: nothing but the one document that ``document`` prints."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self.as_json = as_json
        self.is_told = False
        self._stream = stream
        terminal = _is_terminal(stream)
        # Without a terminal a row is one line, whatever its length: it goes to grep and to logs.
        width = None if terminal else 1000
        self.console = Console(
            file=stream, highlight=False, soft_wrap=True, force_terminal=terminal or None, width=width
        )

    def line(self, text: str) -> None:
        if not self.as_json:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """To standard error, so that a document on standard output stays one."""
        sys.stderr.write(text + "\n")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
        """A table; the sentence ``empty`` where there are no rows."""
        if self.as_json:
            return
        if not rows:
            self.line(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self.console.print(table)

    def document(self, data: Any) -> None:
        """What a program reads: at most one, so that standard output is one JSON document."""
        if self.as_json and not self.is_told:
            self.is_told = True
            self._stream.write(json.dumps(data, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False) + "\n")

    def error(self, error: ZantaraError) -> None:
        """In words on standard error, and for a program as its document."""
        self.document({"error": error.message, "remedy": error.remedy})
        self.warn(str(error))

    def follow(self, row: Any, what: str, is_over: Callable[[Any], bool]) -> Any:
        """Read the row until it is over, with a bar on a terminal. The work itself is a worker's: Ctrl-C leaves it."""
        since, told = time.monotonic(), set[str]()
        with self._bar(what) as show:
            while True:
                fresh = type(row)._base_manager.get(pk=row.pk)
                if is_over(fresh):
                    return fresh
                show(getattr(fresh, "progress", None) or {}, fresh.state)
                if fresh.state != "queued":
                    since = time.monotonic()
                elif (why := _why_it_waits(fresh, time.monotonic() - since)) and why not in told:
                    told.add(why)
                    self.warn(why)
                time.sleep(POLL_SECONDS)

    @contextmanager
    def _bar(self, what: str) -> Iterator[Callable[[dict[str, Any], str], None]]:
        if self.as_json or not self.console.is_terminal:
            yield self._lines(what)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=None)

            def show(seen: dict[str, Any], state: str) -> None:
                text = f"{what}: {state}" + (f" {seen['source']}" if seen.get("source") else "")
                progress.update(
                    task, description=text, completed=seen.get("plain_bytes") or 0, total=seen.get("expected_bytes")
                )

            yield show

    def _lines(self, what: str) -> Callable[[dict[str, Any], str], None]:
        """Without a terminal: one line for each change of what is being done."""
        last = ""

        def show(seen: dict[str, Any], state: str) -> None:
            nonlocal last
            text = f"{what}: {state}" + (f" {seen['source']}" if seen.get("source") else "")
            if text != last:
                last = text
                self.line(text)

        return show


def _why_it_waits(row: Any, seconds: float) -> str:
    """What to tell of a row that is queued for so long; nothing of one that has only just been put there."""
    if row.due_at > clock.now() and not getattr(row, "attempt", 0):
        return ""  # it is not its time yet
    if row.due_at > clock.now():
        return f"Attempt {row.attempt} did not succeed: {row.error} The next is at {row.due_at:%H:%M:%S} UTC."
    if seconds > NO_WORKER_SECONDS:
        return "No worker has taken it yet. Is the stack running? (`--here` does the work in this process.)"
    return ""


def _is_terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)()) and "NO_COLOR" not in os.environ


def size(number: int | None) -> str:
    """1 536 → “1.5 KiB”."""
    if number is None:
        return "–"
    value, units = float(number), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def ago(moment: Any, now: Any) -> str:
    """“3 h ago”; “–” for never."""
    if moment is None:
        return "–"
    seconds = (now - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
