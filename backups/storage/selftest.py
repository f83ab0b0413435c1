"""The question "does this store work?", put by doing all that a backup does, with one small object."""

from __future__ import annotations

import secrets

from backups.errors import StorageRefused

from .base import Storage

#: Where the object of the question is, for a moment.
FOLDER = "checks/"


def round_trip(storage: Storage) -> None:
    """Write an object both ways, read it back, find it in the list, and delete it.

    Raises what the store raises, and StorageRefused where what came back is not what was written.
    """
    key, body = f"{FOLDER}{secrets.token_hex(8)}", secrets.token_bytes(4096)
    try:
        storage.put(key, body)
        _expect(storage.get(key) == body, "the bytes that came back are not those that were written")
        with storage.open_writer(key) as writer:
            writer.write(body + body)
            writer.complete()
        with storage.open_reader(key, start=len(body)) as reader:
            _expect(reader.read() == body, "reading from the middle gave other bytes than were written")
        _expect(any(found.key == key for found in storage.list(FOLDER)), "an object just written is not in the list")
        for _ in storage.uploads(FOLDER):
            break
    finally:
        kept = storage.delete([key])
    _expect(not kept, "; ".join(kept.values()))


def _expect(holds: bool, why: str) -> None:
    if not holds:
        raise StorageRefused(f"The store does not do what it is asked: {why}.", remedy="Use another store.")
