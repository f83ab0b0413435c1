"""The signed manifest of a set, and the COMMIT object without which the set does not exist.

manifest.json  {"key_id": …, "manifest": {…}, "signature": base64 of Ed25519 over the canonical bytes of "manifest"}
COMMIT         {"format": 1, "manifest_sha256": …, "set_id": …}, written last

Canonical JSON: sorted keys, no spaces, UTF-8 as it is. Objects of an artifact are in ``<prefix>/<artifact>/``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from backups import keys
from backups.errors import Damaged, ObjectMissing
from backups.storage.base import Storage
from backups.stream import Part, Stored, canonical
from controlplane.kernel.errors import NotAuthentic, Refused

FORMAT = 1
MANIFEST, COMMIT = "manifest.json", "COMMIT"
#: A manifest names parts of 1 GiB, so even petabytes fit; more than this is somebody else's file.
_MOST_BYTES = 64 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_OBJECT = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestArtifact:
    """One source in the set. ``expectations``: {object, size, sha256}, the object within the artifact's folder."""

    name: str
    kind: str
    position: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    captured_from_at: datetime | None = None
    captured_to_at: datetime | None = None
    compressed: bool
    plain_bytes: int
    plain_sha256: str
    compressed_bytes: int
    stored_bytes: int
    stored_sha256: str
    parts: tuple[Part, ...]
    tools: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    expectations: Mapping[str, Any]

    def __post_init__(self) -> None:
        _demand(_FOLDER.fullmatch(self.name), f"an artifact's name is {self.name!r}")
        for digest in (self.plain_sha256, self.stored_sha256, *(part.sha256 for part in self.parts)):
            _demand(_SHA256.fullmatch(digest), f"{self.name} has a hash that is none")
        _demand(self.parts, f"{self.name} has no parts")
        _demand(all(_OBJECT.fullmatch(part.name) for part in self.parts), f"{self.name} has a part with a strange name")
        _demand(len({part.name for part in self.parts}) == len(self.parts), f"{self.name} has a part twice")
        _demand(sum(part.size for part in self.parts) == self.stored_bytes, f"the parts of {self.name} do not add up")
        ref = self.expectations
        _demand(_OBJECT.fullmatch(str(ref.get("object", ""))), f"{self.name} has no expectations")
        _demand(isinstance(ref.get("size"), int), f"the expectations of {self.name} have no size")
        _demand(_SHA256.fullmatch(str(ref.get("sha256", ""))), f"the expectations of {self.name} have no hash")

    @classmethod
    def of(cls, stored: Stored, **rest: Any) -> ManifestArtifact:
        """With the figures of what was stored."""
        figures = {name: getattr(stored, name) for name in Stored.__dataclass_fields__}
        return cls(**figures, **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a set holds. ``name`` is the record's; times are UTC. ``only_sources``: where not all of the plan's were
    wanted, so that whoever has only the store does not take a part for the whole.
    """

    set_id: str
    name: str
    plan: str
    trigger: str
    requested_by: str = ""
    scheduled_for: datetime | None = None
    started_at: datetime
    committed_at: datetime
    producer: str
    recipients: tuple[str, ...]
    previous_manifest_sha256: str = ""
    only_sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    artifacts: tuple[ManifestArtifact, ...]
    format: int = FORMAT

    def __post_init__(self) -> None:
        _demand(_is_uuid(self.set_id), f"the set's id is {self.set_id!r}")
        _demand(self.artifacts, "it holds no artifact")
        names = [artifact.name for artifact in self.artifacts]
        _demand(len(set(names)) == len(names), "it holds two artifacts of one name")

    def artifact(self, name: str) -> ManifestArtifact:
        """The artifact of that name; Refused otherwise."""
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        known = ", ".join(artifact.name for artifact in self.artifacts)
        raise Refused(f"{self.name} holds no {name!r}.", remedy=f"It holds: {known}.")

    def objects(self) -> dict[str, int]:
        """Object (relative to the set) -> size, of everything but manifest and COMMIT."""
        found: dict[str, int] = {}
        for artifact in self.artifacts:
            found |= {f"{artifact.name}/{part.name}": part.size for part in artifact.parts}
            found[f"{artifact.name}/{artifact.expectations['object']}"] = artifact.expectations["size"]
        return found


def _demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise Damaged(f"The manifest cannot be right: {otherwise}.")


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


# --- to and from bytes --------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def to_dict(manifest: Manifest) -> dict[str, Any]:
    """JSON's types only."""
    found: dict[str, Any] = _plain(asdict(manifest))
    return found


def from_dict(data: Any) -> Manifest:
    """Damaged where something is missing or of a wrong type; Refused for a format that is newer than this code."""
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise Refused(
            f"This set has format {data['format']}; this version reads format {FORMAT}.",
            remedy="Use the version of Zantara that made it, or a newer one.",
        )
    try:
        artifacts = tuple(_artifact(entry) for entry in data["artifacts"])
        known = _known(Manifest, data)
        times = {name: _time(known.get(name)) for name in ("scheduled_for", "started_at", "committed_at")}
        if times["started_at"] is None or times["committed_at"] is None:
            raise ValueError
        lists = {name: tuple(data[name]) for name in ("recipients", "warnings")}
        lists["only_sources"] = tuple(data.get("only_sources", ()))
        return Manifest(**{**known, **times, **lists, "artifacts": artifacts})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged("The manifest does not have the form of a manifest.") from None


def _artifact(data: dict[str, Any]) -> ManifestArtifact:
    times = {name: _time(data.get(name)) for name in ("captured_from_at", "captured_to_at")}
    parts = tuple(Part(str(p["name"]), _size(p["size"]), str(p["sha256"])) for p in data["parts"])
    for name in ("plain_bytes", "compressed_bytes", "stored_bytes"):
        _size(data[name])
    return ManifestArtifact(
        **{**_known(ManifestArtifact, data), **times, "parts": parts, "warnings": tuple(data["warnings"])}
    )


def _known(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """Only the fields that this version knows: an addition does not make a set unreadable."""
    return {f.name: data[f.name] for f in fields(cls) if f.name in data}


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    return at.astimezone(UTC)


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("not a size")
    return value


# --- signature and commit ---------------------------------------------------------------------------------


def sign(manifest: Manifest, key: Ed25519PrivateKey | None = None) -> bytes:
    """The document ``manifest.json``."""
    key = key or keys.signing_key()
    body = to_dict(manifest)
    signature = base64.b64encode(key.sign(canonical(body))).decode()
    return canonical({"key_id": keys.key_id(key.public_key()), "manifest": body, "signature": signature})


def open_signed(document: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> Manifest:
    """The manifest in a document that one of the ``trusted`` keys signed.

    Damaged where the document cannot be read, NotAuthentic where nobody trusted signed it as it is.
    """
    try:
        envelope = json.loads(document)
        body, name = envelope["manifest"], str(envelope["key_id"])
        signature = base64.b64decode(envelope["signature"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise Damaged("The manifest is not readable as a signed manifest.") from None
    key = trusted.get(name)
    if key is None:
        raise NotAuthentic(
            f"The manifest is signed by the key {name}, which is not trusted here.",
            remedy="Take that installation's signing public key from its recovery kit and name it in "
            "ZANTARA_MANIFEST_TRUSTED_KEY_FILES.",
        )
    try:
        key.verify(signature, canonical(body))
    except (InvalidSignature, ValueError):
        raise NotAuthentic(
            "The manifest's signature does not hold: it was changed after it was signed.",
            remedy="Do not restore this set; use an earlier one.",
        ) from None
    return from_dict(body)


def key_id_of(document: bytes) -> str:
    """Which key a signed manifest says that it is signed by; Damaged where it says nothing."""
    try:
        return str(json.loads(document)["key_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged("The manifest is not readable as a signed manifest.") from None


def manifest_sha256(document: bytes) -> str:
    return sha256(document).hexdigest()


def commit_body(document: bytes) -> bytes:
    """The COMMIT object for a signed manifest."""
    set_id = json.loads(document)["manifest"]["set_id"]
    return canonical({"format": FORMAT, "manifest_sha256": manifest_sha256(document), "set_id": set_id})


def check_commit(commit: bytes, document: bytes) -> None:
    """Damaged where the COMMIT was not written for this very manifest."""
    try:
        said = json.loads(commit)
        digest, set_id = said["manifest_sha256"], said["set_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged("The COMMIT object is not readable.") from None
    if digest != manifest_sha256(document):
        raise Damaged("The manifest is not the one that was committed: its hash differs from the COMMIT object's.")
    try:
        if json.loads(document)["manifest"]["set_id"] == set_id:
            return
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Damaged("The COMMIT object is that of another set.")


def set_prefix(plan: str, at: datetime, set_id: str | UUID) -> str:
    """``sets/<plan>/<yyyy>/<mm>/<set_id>`` for a set that was begun ``at``."""
    at = at.astimezone(UTC)
    return f"sets/{plan}/{at:%Y}/{at:%m}/{set_id}"


def load_document(storage: Storage, prefix: str) -> bytes:
    """The committed ``manifest.json`` of a set, its signature not yet looked at.

    ObjectMissing where there is no COMMIT (such a set does not exist), Damaged where the manifest is missing or is not
    the committed one; StorageUnavailable passes through.
    """
    try:
        commit = storage.get(f"{prefix}/{COMMIT}", most=_MOST_BYTES)
    except ObjectMissing:
        raise ObjectMissing(
            f"The set {prefix} does not exist: it has no COMMIT object.",
            remedy="It was never completed, or it was deleted; choose another restore point.",
        ) from None
    try:
        document = storage.get(f"{prefix}/{MANIFEST}", most=_MOST_BYTES)
    except ObjectMissing:
        raise Damaged(f"The set {prefix} was committed, but its manifest is missing.") from None
    check_commit(commit, document)
    return document


def load_set(storage: Storage, prefix: str, trusted: Mapping[str, Ed25519PublicKey] | None = None) -> Manifest:
    """The authentic manifest of the committed set at ``prefix``; see ``load_document`` and ``open_signed``."""
    document = load_document(storage, prefix)
    manifest = open_signed(document, keys.trusted_keys() if trusted is None else trusted)
    if prefix.rstrip("/").rsplit("/", 1)[-1] != manifest.set_id:
        raise Damaged(f"The manifest at {prefix} is that of another set, {manifest.set_id}.")
    return manifest
