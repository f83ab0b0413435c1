"""Reads the data part of the SQL that ``pg_restore --section=data`` writes, and counts what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_IDENTIFIER = rb'(?:"(?:[^"]|"")*"|[^".\s(]+)'
_COPY = re.compile(rb"^COPY (" + _IDENTIFIER + rb")\.(" + _IDENTIFIER + rb") (?:\(.*\))? ?FROM stdin;$", re.DOTALL)
_LARGE_OBJECT = b"SELECT pg_catalog.lo_open('"
_END = b"\n\\.\n"
#: A statement of this length in which no COPY ends is not one: table and column names are short.
_LONGEST_HEAD = 2**20


class ScriptReader:
    """Fed with the script piece by piece; ``rows`` holds the number of each table's rows."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], int] = {}
        self.large_objects = 0
        self._rest = b""
        self._table: tuple[str, str] | None = None
        self._inside_a_line = False

    def read(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self._feed(chunk)

    @property
    def is_whole(self) -> bool:
        """Whether no table was left open at the end."""
        return self._table is None

    def _feed(self, chunk: bytes) -> None:
        data = self._rest + chunk
        at = 0
        while True:
            at, more = self._in_rows(data, at) if self._table else self._in_statements(data, at)
            if not more:
                break
        self._rest = data[at:]

    def _in_rows(self, data: bytes, at: int) -> tuple[int, bool]:
        """Rows are lines, with every newline inside a value escaped, up to a line of ``\\.``."""
        assert self._table is not None  # noqa: S101
        if self._inside_a_line:
            end = data.find(b"\n", at)
            if end < 0:
                return len(data), False
            self.rows[self._table] += 1
            self._inside_a_line = False
            return end + 1, True
        if data.startswith(_END[1:], at):
            self._table = None
            return at + len(_END) - 1, True
        end = data.find(_END, at)
        if end >= 0:
            self.rows[self._table] += data.count(b"\n", at, end + 1)
            return end + 1, True
        line = data.rfind(b"\n", at) + 1
        if line > at:
            self.rows[self._table] += data.count(b"\n", at, line)
            at = line
        if len(data) - at < len(_END):
            return at, False  # it may be the beginning of the end
        self._inside_a_line = True
        return len(data), False

    def _in_statements(self, data: bytes, at: int) -> tuple[int, bool]:
        end = data.find(b"\n", at)
        if end < 0:
            return at, False
        line = data[at:end]
        if line.startswith(_LARGE_OBJECT):
            self.large_objects += 1
        elif line.startswith(b"COPY ") and not line.endswith(b" FROM stdin;"):
            # A name may hold a newline.
            end = data.find(b" FROM stdin;\n", at)
            if end < 0:
                return (at, False) if len(data) - at < _LONGEST_HEAD else (len(data), False)
            end += len(b" FROM stdin;")
            line = data[at:end]
        match = _COPY.match(line)
        if match:
            self._table = (_name(match[1]), _name(match[2]))
            self.rows.setdefault(self._table, 0)
        return end + 1, True


def _name(identifier: bytes) -> str:
    text = identifier.decode("utf-8", "surrogateescape")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
