"""The four rungs for one artifact of a set. No rows, no clock but for durations: store and manifest in, findings out.

L0  every object is there, with the manifest's size
L1  stored parts have the manifest's hash
L2  the stream decrypts, decompresses and parses to its end, and is what was captured
L3  it restores into scratch, and what stands there equals the expectations exactly

Raises StorageUnavailable, Unavailable (no scratch server), NoIdentity: then nothing was learned. Damage is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from backups.errors import CaptureFailed, Damaged, RestoreFailed
from backups.keys import Identity
from backups.manifest import ManifestArtifact
from backups.sources.base import Finding, Place, Source, kinds
from backups.storage.base import Storage
from backups.stream import get_expectations, open_stream
from backups.stream.expectations import check_expectations
from backups.stream.reading import check_part, read_part
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused, Unavailable

#: Told of each block that was read; may raise to end the climb.
Tick = Callable[[int], None]


@dataclass
class Climb:
    """How far one artifact came. ``hashed``: parts whose hash was seen to hold."""

    level: int
    findings: list[dict[str, Any]] = field(default_factory=list)
    reached: int | None = None
    hashed: set[str] = field(default_factory=set)
    restore_seconds: float | None = None

    @property
    def failed(self) -> bool:
        return any(finding["status"] == "fail" for finding in self.findings)

    def note(self, level: int, status: str, detail: str, seconds: float | None = None) -> None:
        found: dict[str, Any] = {"level": level, "status": status, "detail": detail}
        self.findings.append(found | ({} if seconds is None else {"seconds": round(seconds, 3)}))


@dataclass(frozen=True)
class Ladder:
    """What the rungs of every artifact of one set have in common."""

    storage: Storage
    prefix: str
    identity: Identity | None
    place: Callable[[], AbstractContextManager[Place]]
    tick: Tick

    def climb(self, artifact: ManifestArtifact, level: int, *, parts: Collection[str] | None = None) -> Climb:
        """Up to ``level``, as far as it holds. ``parts`` limits L1 to a sample; from L2 on all are read."""
        climb = Climb(level)
        rungs: list[Callable[[ManifestArtifact, Climb], None]] = [self._present]
        if level == 1 and (parts is None or parts):
            rungs.append(lambda a, c: self._unchanged(a, c, parts))
        if level == 2:
            rungs.append(self._readable)
        if level == 3:
            rungs.append(self._restores)
        for rung in rungs:
            try:
                rung(artifact, climb)
            except (Damaged, CaptureFailed, RestoreFailed, Refused) as damage:
                # A kind that refuses what it finds in its own stream, or cannot restore it, has found it wrong.
                climb.note(level if climb.reached is not None else 0, "fail", str(damage))
            if climb.failed:
                break
        return climb

    def _folder(self, artifact: ManifestArtifact) -> str:
        return f"{self.prefix}/{artifact.name}"

    def _present(self, artifact: ManifestArtifact, climb: Climb) -> None:
        folder = self._folder(artifact)
        wanted = {part.name: part.size for part in artifact.parts}
        wanted[artifact.expectations["object"]] = artifact.expectations["size"]
        for name, size in wanted.items():
            info = self.storage.stat(f"{folder}/{name}")
            if info is None:
                climb.note(0, "fail", f"{folder}/{name} is missing from the store.")
            elif info.size != size:
                climb.note(0, "fail", f"{folder}/{name} should have {size} bytes and has {info.size}.")
            self.tick(0)
        if not climb.failed:
            climb.reached = 0
            climb.note(0, "pass", f"{_count(len(wanted), 'object')} there, with the right sizes.")

    def _unchanged(self, artifact: ManifestArtifact, climb: Climb, sample: Collection[str] | None) -> None:
        began, folder, size = clock.monotonic(), self._folder(artifact), 0
        for part in artifact.parts:
            if sample is not None and part.name not in sample:
                continue
            digest = sha256()
            for block in read_part(self.storage, folder, part):
                digest.update(block)
                self.tick(len(block))
            check_part(folder, part, digest.hexdigest())
            climb.hashed.add(part.name)
            size += part.size
        check_expectations(self.storage, folder, artifact.expectations)
        climb.reached = 1
        of = f" of {len(artifact.parts)}" if len(climb.hashed) < len(artifact.parts) else ""
        text = f"{_count(len(climb.hashed), 'part')}{of} re-hashed, {size} bytes: unchanged."
        climb.note(1, "pass", text, clock.monotonic() - began)

    def _readable(self, artifact: ManifestArtifact, climb: Climb) -> None:
        source, expectations = self._source(artifact), self._expectations(artifact)
        began = clock.monotonic()
        with closing(self._stream(artifact)) as chunks:
            findings = source.inspect(chunks, expectations)
            _read_to_the_end(chunks)
        self._judge(artifact, climb, 2, findings, clock.monotonic() - began, "read to its end, and what was captured")

    def _restores(self, artifact: ManifestArtifact, climb: Climb) -> None:
        source, expectations = self._source(artifact), self._expectations(artifact)
        with self.place() as place, closing(self._stream(artifact)) as chunks:
            began = clock.monotonic()
            findings = source.drill(chunks, expectations, place)
            _read_to_the_end(chunks)
            seconds = clock.monotonic() - began
        self._judge(artifact, climb, 3, findings, seconds, "restored into scratch, and equal to what was captured")
        if not climb.failed:
            climb.restore_seconds = seconds

    def _judge(
        self, artifact: ManifestArtifact, climb: Climb, level: int, findings: list[Finding], seconds: float, well: str
    ) -> None:
        climb.hashed.update(part.name for part in artifact.parts)  # the stream ended, so all of its hashes hold
        if not findings:
            raise Unavailable(
                f"{artifact.name} was read, but nothing was compared: that is no proof.",
                remedy=f"This is a fault of the kind {artifact.kind}: report it.",
            )
        for finding in findings:
            climb.note(level, finding.status, finding.detail)
        if not climb.failed:
            climb.reached = level
            climb.note(level, "pass", f"{artifact.plain_bytes} bytes {well}.", seconds)

    def _stream(self, artifact: ManifestArtifact) -> _Metered:
        assert self.identity is not None  # noqa: S101  (asked for before the climb)
        return _Metered(open_stream(self.storage, self._folder(artifact), artifact, self.identity), self.tick)

    def _expectations(self, artifact: ManifestArtifact) -> dict[str, Any]:
        assert self.identity is not None  # noqa: S101
        return get_expectations(self.storage, self._folder(artifact), artifact.expectations, self.identity)

    def _source(self, artifact: ManifestArtifact) -> Source:
        return kinds.get(artifact.kind)(artifact.name, artifact.settings, {})


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class _Metered:
    """A stream that tells of what passes; it may be read on from where a consumer stopped."""

    def __init__(self, stream: Iterator[bytes], tick: Tick) -> None:
        self._stream, self._tick = stream, tick

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = next(self._stream)
        self._tick(len(block))
        return block

    def close(self) -> None:
        cast("Any", self._stream).close()


def _read_to_the_end(chunks: Iterator[bytes]) -> None:
    """A consumer that has seen enough has not seen the last hash."""
    for _ in chunks:
        pass
