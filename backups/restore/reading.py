"""Reading one committed set: its authentic manifest, and of each part the plain bytes and the expectations."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from backups.errors import Damaged
from backups.keys import Identity
from backups.manifest import Manifest, load_document, load_set
from backups.manifest import manifest_sha256 as sha256_of_document
from backups.storage import open_target
from backups.storage.base import Storage
from backups.stream import get_expectations, open_stream

from .journal import SetState
from .parts import target_of


class SetReader:
    """A set that exists and whose manifest is authentic, ready to be read with an identity."""

    def __init__(self, storage: Storage, prefix: str, *, manifest_sha256: str = "") -> None:
        """Raises ObjectMissing (no COMMIT), Damaged, NotAuthentic, StorageUnavailable.

        ``manifest_sha256``: what the catalogue remembers; another manifest in its place is damage.
        """
        self.storage, self.prefix = storage, prefix
        self.manifest: Manifest = load_set(storage, prefix)
        if manifest_sha256 and sha256_of_document(load_document(storage, prefix)) != manifest_sha256:
            raise Damaged(
                f"The manifest of {self.manifest.name} is not the one that was stored.",
                remedy="Somebody replaced the set in the store; choose another restore point.",
            )

    @classmethod
    def of(cls, state: SetState) -> SetReader:
        return cls(open_target(target_of(state.target)), state.prefix, manifest_sha256=state.manifest_sha256)

    def chunks(self, name: str, identity: Identity, reached: Callable[[int], None]) -> Generator[bytes, None, None]:
        """The part's plain bytes, proven to be what the manifest says when the last one has come.

        ``reached`` gets the bytes so far with each chunk, and may raise to end it.
        """
        artifact = self.manifest.artifact(name)
        total = 0
        # open_stream is a generator: closing this one closes it, and its threads end
        for chunk in open_stream(self.storage, f"{self.prefix}/{name}", artifact, identity):
            total += len(chunk)
            reached(total)
            yield chunk

    def opens_with(self, identity: Identity) -> bool:
        """Whether this identity is among those that the set was encrypted to."""
        return bool(set(identity.public) & set(self.manifest.recipients))

    def expectations(self, name: str, identity: Identity) -> Mapping[str, Any]:
        artifact = self.manifest.artifact(name)
        return get_expectations(self.storage, f"{self.prefix}/{name}", artifact.expectations, identity)
