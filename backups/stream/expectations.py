"""What a drill compares with: canonical JSON, compressed, encrypted to the same recipients as the data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import pyrage
import zstandard

from backups import keys
from backups.errors import Damaged, NoIdentity
from backups.storage.base import Storage

from .base import EXPECTATIONS, canonical

#: Refused above this, so that a wrong object cannot fill the memory: some millions of files.
_MOST_BYTES = 2**30


def put_expectations(
    storage: Storage, folder: str, expectations: Mapping[str, Any], recipients: Sequence[str]
) -> dict[str, Any]:
    """Store them in ``folder`` (``<prefix>/<artifact>``); the manifest's entry {object, size, sha256}."""
    packed = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(canonical(expectations))
    body = pyrage.encrypt(packed, keys.as_age(tuple(recipients)))
    key = f"{folder}/{EXPECTATIONS}"
    with storage.open_writer(key) as writer:
        writer.write(body)
        writer.complete()
    ref = {"object": EXPECTATIONS, "size": len(body), "sha256": sha256(body).hexdigest()}
    check_expectations(storage, folder, ref)
    return ref


def check_expectations(storage: Storage, folder: str, ref: Mapping[str, Any]) -> bytes:
    """The stored bytes; Damaged where they are not those that the manifest names."""
    key = f"{folder}/{ref['object']}"
    info = storage.stat(key)
    if info is None:
        raise Damaged(f"{key} is missing from the store.", remedy="Use another restore point.")
    body = storage.get(key, most=info.size) if info.size == ref["size"] else b""
    if sha256(body).hexdigest() != ref["sha256"]:
        raise Damaged(f"{key} was changed: its SHA-256 is not the manifest's.", remedy="Use another restore point.")
    return body


def get_expectations(storage: Storage, folder: str, ref: Mapping[str, Any], identity: keys.Identity) -> dict[str, Any]:
    """The expectations again. Damaged, NoIdentity, StorageUnavailable as in ``open_stream``."""
    body = check_expectations(storage, folder, ref)
    try:
        packed = pyrage.decrypt(body, identity.keys)
    except pyrage.DecryptError as error:
        if "matching keys" in str(error).lower():
            raise NoIdentity(
                "The expectations were not encrypted to this identity.",
                remedy="Use the recovery key, or an identity that was a recipient when the set was made.",
            ) from None
        raise Damaged(f"The expectations in {folder} cannot be decrypted: {error}.") from None
    try:
        text = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MOST_BYTES)
        found: dict[str, Any] = json.loads(text)
    except (zstandard.ZstdError, ValueError):
        raise Damaged(f"The expectations in {folder} cannot be read.") from None
    return found
