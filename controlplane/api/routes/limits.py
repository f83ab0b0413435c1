"""Limits: look, and change how many requests there may be."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest
from ninja import Query, Router

from controlplane.api import schemas
from controlplane.api.auth import caller, scoped
from controlplane.api.models import ApiToken
from controlplane.api.paging import Paging, page
from ratelimits.models import RateLimitProfile
from ratelimits.policies import version_in_force

router = Router(tags=["limits"])
READ, WRITE = "limits:read", "limits:write"
_FIELDS = (
    "id", "role", "route_prefix", "subject", "unlimited", "requests", "window_seconds", "burst_requests",
    "burst_window_seconds", "message", "key", "fail_mode", "enforced", "active", "note", "version", "updated_at",
)  # fmt: skip


def _as_json(row: RateLimitProfile, held: int | None) -> dict[str, Any]:
    in_force = None if held is None else held >= row.version
    return {**{name: getattr(row, name) for name in _FIELDS}, "in_force": in_force}


def _profile(limit_id: int) -> RateLimitProfile:
    row = RateLimitProfile.objects.filter(pk=limit_id).first()
    if row is None:
        raise Http404(f"There is no limit {limit_id}.")
    return row


@router.get("/limits", **scoped(READ, operation_id="list_limits", response=schemas.Page[schemas.Limit]))
def list_limits(request: HttpRequest, paging: Query[Paging], role: str = "") -> dict[str, Any]:
    """Limits, the newest first."""
    held = version_in_force()
    rows = RateLimitProfile.objects.filter(**({"role": role} if role else {}))
    return page(request, rows, paging, lambda row: _as_json(row, held))


@router.get("/limits/{limit_id}", **scoped(READ, operation_id="get_limit", response=schemas.Limit))
def get_limit(request: HttpRequest, limit_id: int) -> dict[str, Any]:
    """One limit."""
    return _as_json(_profile(limit_id), version_in_force())


@router.patch("/limits/{limit_id}", **scoped(WRITE, operation_id="change_limit", response=schemas.Limit))
def change_limit(request: HttpRequest, limit_id: int, body: schemas.LimitChange) -> dict[str, Any]:
    """Change how many requests there may be. Checked as in the admin, kept in the history, obeyed at once."""
    row = change(_profile(limit_id), body, caller(request))
    return _as_json(row, version_in_force())


def change(row: RateLimitProfile, wanted: schemas.LimitChange, token: ApiToken) -> RateLimitProfile:
    """Save the row with its new numbers; ValidationError for bad ones, StaleProfile where somebody was first."""
    for name in wanted.model_fields_set & {"requests", "burst_requests"}:
        setattr(row, name, getattr(wanted, name))
    row.full_clean()
    row._history_user = token.owner  # type: ignore[attr-defined]  # read by simple-history
    row._change_reason = f"{wanted.reason or 'changed'} (token {token.prefix})"[:100]  # type: ignore[attr-defined]
    row.save(expected_version=row.version if wanted.version is None else wanted.version)
    return row
