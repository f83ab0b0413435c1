"""What the stack writes: the terminal, which must never block it, and a rotated log per child."""

from __future__ import annotations

import os
import re
import select
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

#: A pipe that reports "writable" takes this many bytes without blocking (PIPE_BUF, pipe(7)).
_CHUNK_BYTES = 4096
_PENDING_LINES = 5000
_LONGEST_LINE_BYTES = 16 * 1024
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93)


class Terminal:
    """Writes lines to a descriptor only while it takes them.

    A terminal stopped with Ctrl-S or a pipe that nobody reads would block an ordinary ``print`` and
    with it every restart and the shutdown. Lines wait here instead; the oldest are dropped, and
    the reader is told how many.
    """

    def __init__(self, descriptor: int, *, colour: bool) -> None:
        self._descriptor = descriptor
        self.colour = colour
        self._pending: deque[bytes] = deque()
        self._dropped = 0
        self._gone = False

    def line(self, text: str) -> None:
        if self._gone:
            return
        if len(self._pending) >= _PENDING_LINES:
            self._pending.popleft()
            self._dropped += 1
        self._pending.append(text.encode("utf-8", "replace") + b"\n")
        self.pump()

    @property
    def waiting(self) -> bool:
        return bool(self._pending)

    def pump(self) -> None:
        """Write what the descriptor takes now."""
        try:
            while self._pending and select.select([], [self._descriptor], [], 0)[1]:
                if self._dropped:
                    self._pending.appendleft(f"({self._dropped} lines left out here; the logs have them)\n".encode())
                    self._dropped = 0
                first = self._pending.popleft()
                chunk, rest = first[:_CHUNK_BYTES], first[_CHUNK_BYTES:]
                rest = chunk[os.write(self._descriptor, chunk) :] + rest
                if rest:
                    self._pending.appendleft(rest)
        except (OSError, ValueError):
            # The reader has gone (`make run | head`): the stack runs on and its logs have every line.
            self._gone = True
            self._pending.clear()

    def flush(self, seconds: float) -> None:
        """Try for so long to get the rest out."""
        deadline = time.monotonic() + seconds
        while self._pending and (left := deadline - time.monotonic()) > 0:
            with suppress(OSError, ValueError):
                select.select([], [self._descriptor], [], left)
            self.pump()

    def child_line(self, name: str, text: str, *, width: int) -> None:
        """A line of a child behind its name; each name has its colour on a terminal."""
        label = f"{name:<{width}} |"
        if self.colour:
            label = f"\x1b[{_COLOURS[sum(name.encode()) % len(_COLOURS)]}m{label}\x1b[0m"
        self.line(f"{label} {text}")


class RotatedLog:
    """Appends lines to a file; at ``limit_bytes`` it becomes ``.1``, that ``.2`` and so on up to ``keep``."""

    def __init__(self, path: Path, *, limit_bytes: int = 5_000_000, keep: int = 3) -> None:
        self.path, self._limit_bytes, self._keep = path, limit_bytes, keep
        self._size_bytes = path.stat().st_size if path.exists() else 0

    def append(self, text: str) -> None:
        data = text.encode("utf-8", "replace") + b"\n"
        # A full disk must not stop the stack: it is exactly then that the operator needs the admin.
        with suppress(OSError):
            if self._size_bytes and self._size_bytes + len(data) > self._limit_bytes:
                self._rotate()
            with self.path.open("ab") as file:
                file.write(data)
            self._size_bytes += len(data)

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        self.path.replace(self._numbered(1))
        self._size_bytes = 0

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


class LineSplitter:
    """Bytes in, whole lines out: without escape sequences and other control characters, never longer than 16 KiB."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LONGEST_LINE_BYTES:
            lines.append(self._rest[:_LONGEST_LINE_BYTES])
            self._rest = self._rest[_LONGEST_LINE_BYTES:]
        return [self._clean(line) for line in lines]

    def end(self) -> list[str]:
        """What came without a newline before the child closed its end."""
        rest, self._rest = self._rest, b""
        return [self._clean(rest)] if rest else []

    @staticmethod
    def _clean(line: bytes) -> str:
        return _ESCAPES.sub("", line[:_LONGEST_LINE_BYTES].decode("utf-8", "replace")).rstrip()
