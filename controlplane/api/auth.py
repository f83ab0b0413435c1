"""Who may call an operation: the scope it asks for, and the permission that the owner must hold at the time."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja.security import HttpBearer

from .bearer import token_of
from .models import ApiToken
from .problems import NotPermitted, OutOfScope
from .schemas import Problem
from .scopes import SCOPES


class ApiTokenAuth(HttpBearer):
    """A token with one scope. Nothing else counts: no session, no JWT."""

    openapi_description = "An API token of the admin, zt_…"

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = SCOPES[scope]

    def __call__(self, request: HttpRequest) -> ApiToken:
        return self.authenticate(request, "")

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken:
        """The token; NotAuthentic, OutOfScope or NotPermitted otherwise."""
        found = token_of(request)
        if self.scope.name not in found.scopes:
            raise OutOfScope(
                f"The token {found.prefix}… lacks the scope {self.scope.name}.", remedy="Make one that has it."
            )
        if not self.scope.each_asks:
            demand(found, *self.scope.permissions)
        return found


def demand(token: ApiToken, *permissions: str) -> None:
    """NotPermitted unless the token's owner holds every one of them now."""
    for permission in permissions:
        if not token.owner.has_perm(permission):
            raise NotPermitted(
                f"{token.owner.get_username()}, who owns the token {token.prefix}…, may not do this: {permission}.",
                remedy="Ask an administrator for the permission, or use another person's token.",
            )


def caller(request: HttpRequest) -> ApiToken:
    """The token of a request that was let through."""
    token: ApiToken = request.auth  # type: ignore[attr-defined]  # ninja puts it there
    return token


#: What any operation may answer instead.
_PROBLEMS = frozenset({400, 401, 403, 404, 409, 422, 429, 503})
_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "maxLength": 200},
    "required": False,
    "description": "Sent twice, done once, and answered twice the same, for 24 hours.",
}


def scoped(scope: str, *, response: Any, **options: Any) -> dict[str, Any]:
    """What an operation is declared with: its authentication, its scope where people and programs read it, and its
    answers. ``response``: a schema, or {status: schema} of one that acts once for each key."""
    extra: dict[str, Any] = {"x-scope": scope}
    if isinstance(response, dict):
        extra["parameters"] = [_KEY]
    answers = {**(response if isinstance(response, dict) else {200: response}), _PROBLEMS: Problem}
    return {"auth": ApiTokenAuth(scope), "openapi_extra": extra, "response": answers, **options}
