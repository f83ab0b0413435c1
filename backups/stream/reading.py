"""Parts -> age -> zstd -> plain bytes, every hash on the way. What was read counts once the stream has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

import pyrage
import zstandard

from backups.errors import Damaged, NoIdentity, ObjectMissing
from backups.keys import Identity
from backups.storage.base import Storage

from .base import BLOCK_BYTES, Part
from .crew import Aborted, Channel, ChannelReader, ChannelWriter, Crew
from .frames import Blocks

if TYPE_CHECKING:
    from hashlib import _Hash


class StoredArtifact(Protocol):
    """What must be known to read one: the manifest's entry."""

    @property
    def name(self) -> str: ...
    @property
    def compressed(self) -> bool: ...
    @property
    def plain_bytes(self) -> int: ...
    @property
    def plain_sha256(self) -> str: ...
    @property
    def stored_sha256(self) -> str: ...
    @property
    def parts(self) -> Sequence[Part]: ...


def open_stream(storage: Storage, folder: str, artifact: StoredArtifact, identity: Identity) -> Iterator[bytes]:
    """The plain bytes of the artifact in ``folder`` (``<prefix>/<artifact>``), in blocks of about 1 MiB.

    What has been given counts only once the iterator has ended: hashes and sizes are checked at the end of each part
    and of the whole. Raises Damaged (a part missing, of another size or hash, a stream cut or of other content),
    NoIdentity where ``identity`` is not among its recipients; StorageUnavailable passes through as itself.
    Close it (or read it to its end): its threads end then.
    """
    crew = Crew("open")
    sealed, packed, plain = crew.channel(), crew.channel(), crew.channel()
    crew.spawn(_fetch, crew, storage, folder, artifact, sealed)
    crew.spawn(_decrypt, sealed, packed, identity, artifact.name)
    crew.spawn(_expand, packed, plain, artifact)
    try:
        yield from plain
    except Aborted:
        pass
    except BaseException as error:
        crew.fail(error)
        raise
    finally:
        if not crew.failed:
            crew.fail(Aborted())  # closed before its end; harmless after it, when all have ended
        crew.join()
    if crew.error is not None and not isinstance(crew.error, Aborted):
        raise crew.error


def _fetch(crew: Crew, storage: Storage, folder: str, artifact: StoredArtifact, sealed: Channel) -> None:
    whole: _Hash | None = None
    for part in artifact.parts:
        digest = sha256()
        for block in read_part(storage, folder, part):
            digest.update(block)
            if whole is not None:
                whole.update(block)
            sealed.put(block)
        check_part(folder, part, digest.hexdigest())
        whole = whole or digest.copy()
    if whole is None or whole.hexdigest() != artifact.stored_sha256:
        raise Damaged(f"The parts of {artifact.name} are whole, but not in the order of the manifest.")
    sealed.close()


def read_part(storage: Storage, folder: str, part: Part) -> Iterator[bytes]:
    """The bytes of one part; Damaged where it is missing or of another size than the manifest says."""
    key = f"{folder}/{part.name}"
    size = 0
    try:
        with storage.open_reader(key) as reader:
            while block := reader.read(BLOCK_BYTES):
                size += len(block)
                if size > part.size:
                    break
                yield block
    except ObjectMissing:
        raise Damaged(f"{key} is missing from the store.", remedy="Use another restore point.") from None
    if size != part.size:
        than = "more" if size > part.size else f"only {size}"
        raise Damaged(f"{key} should have {part.size} bytes and has {than}.", remedy="Use another restore point.")


def check_part(folder: str, part: Part, digest: str) -> None:
    if digest != part.sha256:
        raise Damaged(
            f"{folder}/{part.name} was changed: its SHA-256 is not the manifest's.", remedy="Use another restore point."
        )


def _decrypt(sealed: Channel, packed: Channel, identity: Identity, name: str) -> None:
    source, sink = ChannelReader(sealed).buffered(), ChannelWriter(packed)
    try:
        pyrage.decrypt_io(source, sink, identity.keys)
    except (pyrage.DecryptError, OSError) as error:
        # Hash the rest before blaming the stream: where a part is bad, that is the better answer and comes from there.
        for _ in sealed:
            pass
        if "matching keys" in str(error).lower():
            raise NoIdentity(
                f"{name} was not encrypted to this identity.",
                remedy="Use the recovery key, or an identity that was a recipient when the set was made.",
            ) from None
        raise Damaged(f"{name} cannot be decrypted to its end: {error}.") from None
    if source.read(1):  # also waits for the last part's hash
        raise Damaged(f"{name} goes on after the end of its age stream.")
    sink.close()


def _expand(packed: Channel, plain: Channel, artifact: StoredArtifact) -> None:
    digest, size = sha256(), 0
    sink = ChannelWriter(plain)
    for block in _unzstd(packed, artifact.name) if artifact.compressed else packed:
        digest.update(block)
        size += len(block)
        if size > artifact.plain_bytes:
            break
        sink.write(block)
    if size != artifact.plain_bytes or digest.hexdigest() != artifact.plain_sha256:
        raise Damaged(f"{artifact.name} holds other bytes than were captured.", remedy="Use another restore point.")
    sink.close()


def _unzstd(packed: Channel, name: str) -> Iterator[bytes]:
    blocks, decompressor = Blocks(), zstandard.ZstdDecompressor().decompressobj()
    try:
        for block in packed:
            if decompressor.eof:
                raise Damaged(f"{name} goes on after the end of its zstd frame.")
            for piece in blocks.feed(block):
                out = decompressor.decompress(piece)
                if out:
                    yield out
    except zstandard.ZstdError as error:
        raise Damaged(f"{name} cannot be decompressed: {error}.") from None
    if not decompressor.eof or decompressor.unused_data:
        raise Damaged(f"{name} does not end where its zstd frame ends.")
