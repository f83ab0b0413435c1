"""A small client of Chroma's HTTP API (v2): what this service needs of it, and nothing more.

Chroma's own Python packages are not used: ``chromadb`` and ``chromadb-client`` overwrite each other's files,
and the first is here as the server.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from controlplane.kernel.errors import Unavailable
from controlplane.kernel.registry import Probe, ProbeResult
from controlplane.monitoring.metrics import vector_operation

from . import config

#: One request is answered or given up within this time.
REQUEST_SECONDS = 0.8
_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
_HEARTBEAT = "/api/v2/heartbeat"
#: Shorter than the probe's deadline, so that an answer of ours says what happened.
PROBE_SECONDS = 0.4
_REMEDY = "Try again shortly; if it lasts, see that Chroma runs and that ZANTARA_CHROMA_URL names it."


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found; ``score`` is the cosine of the angle to the question (-1 to 1)."""

    id: str
    text: str
    metadata: dict[str, Any]
    score: float


class NoSuchCollection(Unavailable):
    """The collection is gone: deleted, or replaced by one of the same name."""


class ChromaClient:
    """One Chroma server. Every method raises Unavailable when a request is not answered within
    :data:`REQUEST_SECONDS`, or when all of them together exceed ``deadline`` (a time of the monotonic clock)."""

    def __init__(self, url: str) -> None:
        # trust_env off: a proxy of the environment has no business between two servers of one machine.
        self._http = httpx2.Client(base_url=url.rstrip("/"), trust_env=False, verify=_encrypted(url))

    def close(self) -> None:
        self._http.close()

    def ensure_collection(self, name: str, metadata: Mapping[str, Any], *, deadline: float | None = None) -> str:
        """The id of the collection, made (with cosine distance) if it is not there yet."""
        body = {
            "name": name,
            "get_or_create": True,
            "metadata": dict(metadata),
            "configuration": {"hnsw": {"space": "cosine"}},
        }
        try:
            return str(self._post("", body, deadline)["id"])
        except _Answered as error:
            # Of two that make it at the same moment, one may be told that it exists.
            if error.status not in {409, 500}:
                raise
            return str(self._post("", body, deadline)["id"])

    def count(self, collection_id: str, *, deadline: float | None = None) -> int:
        return int(self._send("GET", f"/{collection_id}/count", None, deadline))

    @vector_operation("upsert", "chroma")
    def upsert(
        self,
        collection_id: str,
        *,
        ids: Sequence[str],
        embeddings: Sequence[Sequence[float]],
        documents: Sequence[str],
        metadatas: Sequence[Mapping[str, Any]],
        deadline: float | None = None,
    ) -> None:
        """Add records, or replace those of the same ids, in one request."""
        body = {"ids": ids, "embeddings": embeddings, "documents": documents, "metadatas": metadatas}
        self._post(f"/{collection_id}/upsert", body, deadline)

    @vector_operation("query", "chroma")
    def query(self, collection_id: str, vector: Sequence[float], k: int, *, deadline: float | None = None) -> list[Hit]:
        """The ``k`` records nearest to ``vector``, best first."""
        body = {"query_embeddings": [vector], "n_results": k, "include": ["documents", "metadatas", "distances"]}
        found = self._post(f"/{collection_id}/query", body, deadline)
        rows = zip(found["ids"][0], found["documents"][0], found["metadatas"][0], found["distances"][0], strict=True)
        return [
            Hit(id=record_id, text=document or "", metadata=metadata or {}, score=1.0 - distance)
            for record_id, document, metadata, distance in rows
        ]

    def _post(self, path: str, body: Mapping[str, Any], deadline: float | None) -> dict[str, Any]:
        answer = self._send("POST", path, body, deadline)
        if not isinstance(answer, dict):
            raise Unavailable("What answers for Chroma is no Chroma.", remedy=_REMEDY)
        return answer

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, deadline: float | None) -> Any:
        left = REQUEST_SECONDS if deadline is None else min(REQUEST_SECONDS, deadline - time.monotonic())
        if left <= 0:
            raise Unavailable("Chroma did not answer in time.", remedy=_REMEDY)
        try:
            # Connecting, sending and waiting each get a share; together they stay within what is left.
            timeout = httpx2.Timeout(left / 8, connect=left / 4, read=left / 2)
            response = self._http.request(method, _COLLECTIONS + path, json=body, timeout=timeout)
            if response.status_code == 404 and path:
                raise NoSuchCollection("The collection is not there.", remedy="Seed it again.")
            if response.status_code >= 400:
                raise _Answered(response.status_code)
            return response.json()
        except httpx2.HTTPError as error:
            raise Unavailable(f"Chroma did not answer ({type(error).__name__}).", remedy=_REMEDY) from None
        except ValueError:
            raise Unavailable("What answers for Chroma sends no JSON.", remedy=_REMEDY) from None


class _Answered(Unavailable):
    """Chroma answered, with an error."""

    def __init__(self, status: int) -> None:
        super().__init__(f"Chroma answered {status}.", remedy=_REMEDY)
        self.status = status


def _encrypted(url: str) -> bool:
    """Whether certificates are needed at all: to read them takes 50 ms of computing."""
    return not url.lower().startswith("http:")


def probe_chroma() -> ProbeResult:
    """One heartbeat of the server that ``ZANTARA_CHROMA_URL`` names."""
    url = config.chroma_url() or ""
    try:
        status = httpx2.get(
            url.rstrip("/") + _HEARTBEAT, timeout=PROBE_SECONDS, trust_env=False, verify=_encrypted(url)
        ).status_code
    except httpx2.HTTPError as error:
        return ProbeResult("fail", f"the vector store does not answer ({type(error).__name__})", remedy=_REMEDY)
    if status != 200:
        return ProbeResult("fail", f"the vector store answers {status}", remedy=_REMEDY)
    return ProbeResult("pass", "answers")


#: Without it the service still answers from memory, so it only warns.
PROBE = Probe("chroma", "the vector store", probe_chroma)
