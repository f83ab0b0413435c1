"""Lists in pages. A page begins behind the last row of the one before, so that new rows move nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from ninja import Schema
from pydantic import Field

from .problems import Malformed

M = TypeVar("M", bound=Model)

MOST = 200


class Paging(Schema):
    limit: int = Field(50, ge=1, le=MOST, description="Rows on a page.")
    cursor: str = Field("", max_length=40, description="From the `next` of the page before.")


def page(
    request: HttpRequest, rows: QuerySet[M], paging: Paging, shown: Callable[[M], dict[str, Any]]
) -> dict[str, Any]:
    """One page of the rows by falling primary key, as ``schemas.Page``."""
    rows = rows.order_by("-pk")
    if paging.cursor:
        if not paging.cursor.isascii() or not paging.cursor.isdigit():
            raise Malformed("The cursor is none of ours.", remedy="Follow the `next` of the page before.")
        rows = rows.filter(pk__lt=int(paging.cursor))
    found = list(rows[: paging.limit + 1])
    on_page = found[: paging.limit]
    more = next_address(request, cursor=str(on_page[-1].pk)) if len(found) > paging.limit else None
    return {"items": [shown(row) for row in on_page], "next": more}


def next_address(request: HttpRequest, **changes: str) -> str:
    """This address with other parameters."""
    query = request.GET.copy()
    for name, value in changes.items():
        query[name] = value
    return f"{request.path}?{query.urlencode()}"
