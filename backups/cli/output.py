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
from django.db import models
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn
from rich.table import Table

POLL_SECONDS = 0.5
#: After so long without a worker the line says what is wrong, and the waiting goes on.
NO_WORKER_SECONDS = 20.0


class Output:
    """One command's output. ``as_json``: nothing but the document that ``document`` prints."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self.as_json = as_json
        self._stream = stream
        self.console = Console(
            file=stream, highlight=False, soft_wrap=True, force_terminal=_is_terminal(stream) or None
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
        if self.as_json:
            self._stream.write(json.dumps(data, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False) + "\n")

    def follow(self, row: models.Model, what: str, is_over: Callable[[Any], bool]) -> Any:
        """Read the row until it is over, with a bar on a terminal. The work itself is a worker's: Ctrl-C leaves it."""
        began, told = time.monotonic(), ""
        with self._bar(what) as show:
            while True:
                fresh = type(row)._base_manager.get(pk=row.pk)
                if is_over(fresh):
                    return fresh
                show(getattr(fresh, "progress", None) or {}, fresh.state)
                if fresh.state == "queued" and not told and time.monotonic() - began > NO_WORKER_SECONDS:
                    told = "No worker has taken it yet. Is the stack running? (`--here` does the work in this process.)"
                    self.warn(told)
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
