"""What is in an SQLite file: per table its rows and a hash of them, and a hash of the schema."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from .base import Finding
from .compare import differences, verdict

HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_MODULUS = 2**256


def open_at_rest(path: Path) -> sqlite3.Connection:
    """A file that nobody writes to: no locks, no files beside it."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def facts(path: Path) -> dict[str, Any]:
    """``{"format", "schema", "tables": {name: {"rows", "sha256"}}}`` of a file at rest; sqlite3.Error where damaged.

    A table's hash is the sum of its rows' hashes: the order of rows, which VACUUM changes, does not matter. Virtual
    tables are seen through the tables that they keep their data in.
    """
    with closing(open_at_rest(path)) as connection:
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        tables = {
            name: _table(connection, name)
            for type_, name, _, sql in schema
            if type_ == "table" and not (sql or "").upper().startswith("CREATE VIRTUAL")
        }
        rows = "\n".join(sorted(repr(row) for row in schema))
    return {"format": 1, "schema": hashlib.sha256(rows.encode()).hexdigest(), "tables": tables}


def _table(connection: sqlite3.Connection, name: str) -> dict[str, Any]:
    quoted = name.replace('"', '""')
    rows, total = 0, 0
    cursor = connection.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608  (a name from the schema, quoted)
    cursor.arraysize = 500
    # repr of a row is exact and says of each value what it is: 1, 1.0, '1' and b'1' differ.
    while batch := cursor.fetchmany():
        rows += len(batch)
        total += sum(int.from_bytes(hashlib.sha256(repr(row).encode()).digest(), "big") for row in batch)
    return {"rows": rows, "sha256": f"{total % _MODULUS:064x}"}


def compare_facts(expectations: Mapping[str, Any], found: Mapping[str, Any]) -> list[Finding]:
    """Exactly, table by table."""
    problems = differences("table", expectations["tables"], found["tables"], describe=_describe)
    if expectations["schema"] != found["schema"]:
        problems.append(Finding("fail", "the schema (tables, indexes, triggers, views) is not as it was"))
    rows = sum(table["rows"] for table in found["tables"].values())
    return verdict(problems, f"{len(found['tables'])} tables with {rows} rows are exactly as they were")


def _describe(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if expected["rows"] != found["rows"]:
        return f"has {found['rows']} rows instead of {expected['rows']}"
    return f"has its {found['rows']} rows, but not all are as they were"


def drill_file(path: Path, expectations: Mapping[str, Any]) -> list[Finding]:
    """SQLite's own check of every page and index, then the comparison."""
    try:
        with closing(open_at_rest(path)) as connection:
            said = [row[0] for row in connection.execute("PRAGMA integrity_check(20)")]
        if said != ["ok"]:
            return [Finding("fail", f"integrity_check: {line}") for line in said]
        return compare_facts(expectations, facts(path))
    except sqlite3.Error as error:
        return [Finding("fail", f"SQLite cannot read it: {error}")]


def inspect_stream(chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
    """The header, and that there are as many bytes as it says: a file that was cut is found here."""
    header, size = b"", 0
    for chunk in chunks:
        if len(header) < HEADER_BYTES:
            header += chunk[: HEADER_BYTES - len(header)]
        size += len(chunk)
    if size != expectations["bytes"]:
        return [Finding("fail", f"the file has {size} bytes instead of {expectations['bytes']}")]
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        return [Finding("fail", "this is no SQLite database")]
    page_size, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    page_size = 65536 if page_size == 1 else page_size
    if page_size * pages != size:
        return [Finding("fail", f"the header speaks of {pages} pages of {page_size} bytes, there are {size} bytes")]
    return [Finding("pass", f"{pages} pages of {page_size} bytes, as the header says")]
