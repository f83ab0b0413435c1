"""``knowledge.search``: a small collection of texts about operations, in Chroma."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from examples.zantara.embedding import embed
from examples.zantara.knowledge import collection
from examples.zantara.params import MOST_RESULTS, Params

from .registry import add


@add("knowledge.search", "finds what is known about {text, k?}", "unified", "ecosystem")
def knowledge_search(params: Params) -> dict[str, Any]:
    params.only("text", "k")
    text, k = params.text("text"), params.integer("k", 5, least=1, most=MOST_RESULTS)
    return {"matches": [asdict(hit) for hit in collection().query(embed(text), k)]}
