"""Lines of JSON in a stream of chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from backups.errors import Damaged

#: A record with a vector of 65536 numbers, or a document of 40 MB as Chroma takes them, is still one.
MOST_LINE_BYTES = 128 * 2**20

_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def lines(chunks: Iterable[bytes], *, most: int = MOST_LINE_BYTES) -> Iterator[bytes]:
    """Each line without its end; Damaged where one is too long, or the last one has no end."""
    rest: list[bytes] = []
    held = 0
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        held += len(first)
        if held > most:
            raise Damaged(f"A line is longer than {most} bytes.", remedy="See what was stored under this artifact.")
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest, held = [others[-1]], len(others[-1])
    if held:
        raise Damaged("The stream ends in the middle of a line.", remedy="Take another backup.")


def parsed(line: bytes, number: int) -> dict[str, Any]:
    """One line as an object; Damaged names the line."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Damaged(f"Line {number} is not a JSON object.", remedy="See what was stored under this artifact.")
    return value


def compact(value: Any) -> bytes:
    """The one way in which a value is written and hashed: keys sorted, no spaces, UTF-8."""
    return _ENCODER.encode(value).encode()
