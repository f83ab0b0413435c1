"""The collection ``zantara-knowledge``: made and filled by whoever needs it first, the same whoever that is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

from controlplane.kernel.errors import Unavailable

from .chroma import ChromaClient, Hit, NoSuchCollection
from .config import chroma_url
from .embedding import DIMENSIONS, embed
from .texts import TEXTS

NAME = "zantara-knowledge"
#: Making and filling the collection takes several requests, each of which Chroma must answer in time.
SEEDING_SECONDS = 5.0


class KnowledgeCollection:
    """The seeded collection on one server. Raises Unavailable when that does not answer."""

    def __init__(self, client: ChromaClient) -> None:
        self._client = client
        self._id: str | None = None

    def query(self, vector: Sequence[float], k: int) -> list[Hit]:
        """The nearest texts; the collection is made and seeded first if need be, also after it was deleted."""
        if self._id is not None:
            try:
                return self._client.query(self._id, vector, k)
            except NoSuchCollection:
                self._id = None
        self._id, _ = self.ensure(time.monotonic() + SEEDING_SECONDS)
        return self._client.query(self._id, vector, k)

    def ensure(self, deadline: float) -> tuple[str, bool]:
        """The id of the collection, and whether this call filled it.

        Fixed ids, one request, and only into an empty collection: two that do it at once write the same,
        and what an operator added or deleted later stays as he left it.
        """
        collection_id = self._client.ensure_collection(
            NAME, {"embedding": f"feature hashing, {DIMENSIONS} dimensions"}, deadline=deadline
        )
        if self._client.count(collection_id, deadline=deadline) > 0:
            return collection_id, False
        self._client.upsert(
            collection_id,
            ids=[f"{topic}-{number:02}" for number, (topic, _) in enumerate(TEXTS, start=1)],
            embeddings=[embed(text) for _, text in TEXTS],
            documents=[text for _, text in TEXTS],
            metadatas=[{"topic": topic} for topic, _ in TEXTS],
            deadline=deadline,
        )
        return collection_id, True


def collection() -> KnowledgeCollection:
    """This process's collection; Unavailable if no Chroma is configured."""
    url = chroma_url()
    if not url:
        raise Unavailable(
            "This service has no Chroma.", remedy="Set ZANTARA_CHROMA_URL, for example to http://127.0.0.1:8100."
        )
    return _collection(url)


@lru_cache(maxsize=1)
def _collection(url: str) -> KnowledgeCollection:
    return KnowledgeCollection(ChromaClient(url))
