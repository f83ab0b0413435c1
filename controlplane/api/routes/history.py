"""Who changed what: the history of every configuration row."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from controlplane.api import schemas
from controlplane.api.auth import caller, scoped
from controlplane.api.changes import Place, entries, visible_models
from controlplane.api.paging import MOST, next_address
from controlplane.api.problems import Malformed

router = Router(tags=["history"])


class HistoryFilters(Schema):
    """Which changes."""

    model: str = Field("", description="For example ratelimits.ratelimitprofile; empty: all that the owner may see.")
    object_id: str = ""
    cursor: str = Field("", max_length=200, description="From the `next` of the page before.")
    limit: int = Field(50, ge=1, le=MOST)


@router.get(
    "/history", **scoped("history:read", operation_id="list_history", response=schemas.Page[schemas.HistoryEntry])
)
def list_history(request: HttpRequest, filters: Query[HistoryFilters]) -> dict[str, Any]:
    """Changes of configuration rows, the last first: who, when, and each field's old and new value."""
    try:
        behind = Place.read(filters.cursor) if filters.cursor else None
    except ValueError:
        raise Malformed("The cursor is none of ours.", remedy="Follow the `next` of the page before.") from None
    models = visible_models(caller(request).owner, filters.model)
    found, more = entries(models, object_id=filters.object_id, behind=behind, limit=filters.limit)
    return {"items": found, "next": next_address(request, cursor=str(more)) if more else None}
