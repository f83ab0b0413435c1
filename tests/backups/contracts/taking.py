"""Take captures, drill them and read findings, as the engine and the ladder do."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backups.sources.base import Capture, Captured, Finding, Place, Source
from controlplane.kernel import clock

CHUNK_LIMIT = 2**20


@dataclass
class Taken:
    data: bytes
    captured: Captured

    @property
    def expectations(self) -> Any:
        """As they come back from where they are stored."""
        return json.loads(json.dumps(self.captured.expectations, ensure_ascii=False).encode("utf-8"))


def fresh(folder: Path, name: str) -> Path:
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir(mode=0o700)
    return folder / name


def take(source: Source, folder: Path) -> Taken:
    """Capture as the engine does: the chunks are read by another thread than the one that began."""
    scratch = fresh(folder, "scratch")
    box: list[Taken] = []
    failures: list[BaseException] = []
    with source.capture(now=clock.now(), scratch=scratch) as capture:

        def read() -> None:
            try:
                data = bytearray()
                for chunk in capture.chunks():
                    assert 0 < len(chunk) <= CHUNK_LIMIT
                    data += chunk
                box.append(Taken(bytes(data), capture.finish()))
            except BaseException as error:  # noqa: BLE001  (raised below, in the test's thread)
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(120)
    if failures:
        raise failures[0]
    assert list(scratch.iterdir()) == [], "a capture leaves nothing in its scratch"
    return box[0]


def finish(capture: Capture, chunks: Iterator[bytes]) -> Captured:
    for _ in chunks:
        pass
    return capture.finish()


def pieces(data: bytes, size: int = 100_003) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def drill(source: Source, taken: Taken, folder: Path, *, data: bytes | None = None) -> list[Finding]:
    place = Place(fresh(folder, "place"), "drill1")
    return source.drill(pieces(taken.data if data is None else data), taken.expectations, place)


def failing(findings: list[Finding]) -> str:
    return "\n".join(finding.detail for finding in findings if finding.status == "fail")


def assert_good(findings: list[Finding]) -> None:
    assert findings, "silence is no pass"
    assert failing(findings) == ""
    assert any(finding.status == "pass" for finding in findings)
