"""Who changed what: the history of every configuration row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from controlplane.api import schemas
from controlplane.api.auth import caller, scoped
from controlplane.api.changes import entries, visible_models
from controlplane.api.paging import MOST, next_address

router = Router(tags=["history"])


class Filters(Schema):
    """Which changes."""

    model: str = Field("", description="For example ratelimits.ratelimitprofile; empty: all that the owner may see.")
    object_id: str = ""
    before: datetime | None = Field(None, description="Only older ones; from the `next` of the page before.")
    limit: int = Field(50, ge=1, le=MOST)


@router.get(
    "/history", **scoped("history:read", operation_id="list_history", response=schemas.Page[schemas.HistoryEntry])
)
def list_history(request: HttpRequest, filters: Query[Filters]) -> dict[str, Any]:
    """Changes of configuration rows, the last first: who, when, and each field's old and new value."""
    models = visible_models(caller(request).owner, filters.model)
    found, more = entries(models, object_id=filters.object_id, before=filters.before, limit=filters.limit)
    older = next_address(request, before=found[-1]["at"].isoformat()) if more else None
    return {"items": found, "next": older}
