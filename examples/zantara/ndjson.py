"""Records as lines: ``{"id": …, "text": …, "metadata": {…}, "embedding": [384 numbers]}``, one JSON object each.

A last line ``{"end": {"records": 2}}`` is optional; where it is there, it must be true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from controlplane.kernel.errors import Refused

from .embedding import DIMENSIONS
from .http import parse_json
from .params import Params
from .vectors import MOST_RECORDS, Record

#: 384 numbers of 25 characters, and the longest id, text and metadata with every character escaped.
MOST_LINE_BYTES = 96 * 1024
_READ_BYTES = 64 * 1024


def to_line(record: Record) -> bytes:
    """One record, with the newline. Its numbers read back as exactly the same 32-bit floats."""
    data = {"id": record.id, "text": record.text, "metadata": record.metadata, "embedding": list(record.embedding)}
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def end_line(count: int) -> bytes:
    """The line that says that ``count`` records came before it, and that nothing comes after."""
    return json.dumps({"end": {"records": count}}, separators=(",", ":")).encode() + b"\n"


def lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The lines of a body, without their ends, holding one at a time; Refused names one that is too long."""
    rest, number = b"", 0
    while chunk := read(_READ_BYTES):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            number += 1
            yield line
        if len(rest) > MOST_LINE_BYTES:
            raise Refused(
                f"Line {number + 1} is longer than {MOST_LINE_BYTES} bytes.", remedy="Split the body by lines."
            )
    if rest:
        yield rest


def from_lines(source: Iterator[bytes]) -> Iterator[Record]:
    """Each line as a record; empty lines are passed over. Refused names the first line that is wrong."""
    seen: dict[str, int] = {}
    ended = False
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        if ended:
            raise Refused(f"Line {number} comes after the end.", remedy="Send one export. Nothing was changed.")
        if line.startswith(b'{"end":'):
            ended = True
            if line.strip() != end_line(len(seen)).strip():
                raise Refused(
                    f"Line {number}: {len(seen)} records came, and not what this last line says.",
                    remedy="Some are missing: send the whole export. Nothing was changed.",
                )
            continue
        try:
            record = _record(line)
        except Refused as error:
            raise Refused(f"Line {number}: {error.message}", remedy=f"{error.remedy} Nothing was changed.") from None
        if record.id in seen:
            raise Refused(
                f"Line {number}: the id of line {seen[record.id]} again.",
                remedy="Keep one of them. Nothing was changed.",
            )
        if len(seen) == MOST_RECORDS:
            raise Refused(
                f"Line {number}: more than {MOST_RECORDS} records.", remedy="Import fewer. Nothing was changed."
            )
        seen[record.id] = number
        yield record


def _record(line: bytes) -> Record:
    if len(line) > MOST_LINE_BYTES:
        raise Refused(f"it is longer than {MOST_LINE_BYTES} bytes.", remedy="Shorten it.")
    data = parse_json(line)
    if not isinstance(data, dict):
        raise Refused("it is not a JSON object.", remedy='Write {"id": …, "text": …, "embedding": […]}.')
    params = Params(data)
    params.only("id", "text", "metadata", "embedding")
    return Record(
        id=params.identifier("id"),
        text=params.text("text"),
        metadata=params.metadata("metadata"),
        embedding=params.vector("embedding", DIMENSIONS),
    )
