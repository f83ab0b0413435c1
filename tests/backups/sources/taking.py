"""Captures as the engine takes them, and what findings say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backups.sources.base import Capture, Finding, Source
from controlplane.kernel import clock


def taken(source: Source, scratch: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes and the expectations, as they come back from where they are stored."""
    with source.capture(now=clock.now(), scratch=scratch) as capture:
        return drained(capture)


def drained(capture: Capture) -> tuple[bytes, dict[str, Any]]:
    data = b"".join(capture.chunks())
    return data, json.loads(json.dumps(capture.finish().expectations))


def pieces(data: bytes, size: int = 65_537) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def said(findings: list[Finding], status: str = "fail") -> str:
    return "\n".join(finding.detail for finding in findings if finding.status == status)
