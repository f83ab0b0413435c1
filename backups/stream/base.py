"""What both directions share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

#: One step of the pipeline. 1 MiB: the cost of a hand-over vanishes, and a queue of four is 4 MiB.
BLOCK_BYTES = 2**20
#: Blocks that may wait between two steps; more only holds memory.
QUEUE_BLOCKS = 4
#: Object name of an artifact's expectations, in its folder.
EXPECTATIONS = "expectations.json.zst.age"


@dataclass(frozen=True, slots=True)
class Part:
    """One stored object of an artifact; ``name`` is relative to its folder."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What one stream became. Without compression ``compressed_bytes`` equals ``plain_bytes``."""

    plain_bytes: int
    plain_sha256: str
    compressed: bool
    compressed_bytes: int
    stored_bytes: int
    stored_sha256: str
    parts: tuple[Part, ...]


def part_name(number: int) -> str:
    """``part-00001.age`` for 1: five digits sort as they count, for 97 TiB of parts of 1 GiB."""
    return f"part-{number:05d}.age"


def canonical(value: Any) -> bytes:
    """The one JSON text of ``value`` that is hashed and signed. A file name that is no UTF-8 stays what it was."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="backslashreplace")
