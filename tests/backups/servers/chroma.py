"""A Chroma of the whole run; each test that asks finds it without collections."""

from __future__ import annotations

import base64
import json
import random
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from backups.sources.chroma import ChromaSource
from backups.sources.chroma_client import Chroma, Server
from backups.sources.scratch.chroma import scratch_chroma
from tests import needs


@pytest.fixture(scope="session")
def _chroma_server() -> Iterator[Server]:
    if find_spec("chromadb") is None:
        needs.leave_out("chroma is not installed (the extra “embedded”)")
    with tempfile.TemporaryDirectory(prefix="zt-chroma-") as folder, scratch_chroma(Path(folder)) as server:
        yield server


@pytest.fixture
def chroma_server(_chroma_server: Server) -> Server:
    with Chroma(_chroma_server) as chroma:
        for collection in chroma.collections():
            chroma.delete(collection["name"])
    return _chroma_server


def source_of(server: Server) -> ChromaSource:
    return ChromaSource("vectors", ChromaSource.clean({"url": server.url}, {}), {})


def make(server: Server, name: str, *, space: str = "cosine", metadata: dict[str, Any] | None = None) -> str:
    with Chroma(server) as chroma:
        head = {"metadata": metadata, "configuration_json": {"hnsw": {"space": space, "ef_construction": 120}}}
        return str(chroma.create(head, name)["id"])


def put(server: Server, collection_id: str, ids: Sequence[str], *, dimension: int = 8, words: str = "words") -> None:
    """Add or replace records with random vectors; some without document, metadata or uri."""
    body = {
        "ids": list(ids),
        "embeddings": [encoded([random.gauss(0, 1) for _ in range(dimension)]) for _ in ids],
        "documents": [None if n % 5 == 4 else f"{words} ü\0\n{one}" for n, one in enumerate(ids)],
        "metadatas": [None if n % 3 == 2 else {"n": n, "f": n / 3, "whole": 1.0, "t": True} for n in range(len(ids))],
        "uris": [f"file:///{one}" if n % 2 else None for n, one in enumerate(ids)],
    }
    with Chroma(server) as chroma:
        chroma.upsert(collection_id, json.dumps(body).encode())


def drop(server: Server, collection_id: str, ids: Sequence[str]) -> None:
    with Chroma(server) as chroma:
        chroma._checked(chroma._answer("POST", f"{chroma._collections}/{collection_id}/delete", {"ids": list(ids)}))


class Near(list[float]):
    """A vector that equals another when a cosine space may have given it back."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and list(self) == pytest.approx(list(other), abs=1e-5)

    __hash__ = None  # type: ignore[assignment]


def contents(server: Server) -> dict[str, Any]:
    """Every collection with everything in it, comparable."""
    found = {}
    with Chroma(server) as chroma:
        for one in chroma.collections():
            page = json.loads(chroma.page(one["id"], offset=0, limit=100_000))
            records = zip(
                page["ids"], page["documents"], page["metadatas"], page["uris"], page["embeddings"], strict=True
            )
            found[one["name"]] = (
                one["configuration_json"],
                one["metadata"],
                {i: (d, m or {}, u, Near(e)) for i, d, m, u, e in records},
            )
    return found


def encoded(vector: Sequence[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()
