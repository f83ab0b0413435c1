"""``memory.*``: texts and vectors that all processes of the service share, in Redis."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

from controlplane.kernel.errors import Refused
from examples.zantara.embedding import DIMENSIONS, embed
from examples.zantara.params import MOST_RESULTS, Params
from examples.zantara.vectors import Record, store

from .registry import add


@add("memory.add", "remembers {text, metadata?, id?}; the same id replaces", "unified", "collective")
def memory_add(params: Params) -> dict[str, Any]:
    params.only("text", "metadata", "id")
    text, metadata = params.text("text"), params.metadata("metadata")
    record_id = params.identifier("id") if "id" in params else secrets.token_hex(16)
    replaced = store().add(Record(id=record_id, text=text, metadata=metadata, embedding=embed(text)))
    return {"id": record_id, "replaced": replaced}


@add("memory.search", "finds the nearest to {text or vector, k?}", "unified", "collective")
def memory_search(params: Params) -> dict[str, Any]:
    params.only("text", "vector", "k")
    if ("text" in params) == ("vector" in params):
        raise Refused("Give either text or vector.", remedy='Send {"text": "some words"}.')
    vector = params.vector("vector", DIMENSIONS) if "vector" in params else embed(params.text("text"))
    matches = store().search(vector, params.integer("k", 5, least=1, most=MOST_RESULTS))
    return {"matches": [asdict(match) for match in matches]}


@add("memory.delete", "forgets {id}", "unified", "collective")
def memory_delete(params: Params) -> dict[str, Any]:
    params.only("id")
    return {"deleted": store().delete(params.identifier("id"))}
