"""Tokens as the admin makes them, and programs that call the API with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from controlplane.api.models import ApiToken
from controlplane.api.scopes import SCOPES
from controlplane.api.tokens import make_token
from controlplane.kernel import clock
from ratelimits.limiter import get_limiter
from ratelimits.role_source import role_source
from tests.console.people import person


class Program:
    """A program with a token: calls, and reads JSON."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.client = Client(raise_request_exception=False)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        return self.client.generic(
            method, f"/api/v1{path}", **data, headers={"Authorization": f"Bearer {self.text}", **headers}
        )

    def get(self, path: str, **headers: str) -> Any:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.call("POST", path, body, **headers)

    def patch(self, path: str, body: Any) -> Any:
        return self.call("PATCH", path, body)


def token_for(owner: User, *scopes: str, **columns: Any) -> tuple[ApiToken, str]:
    """A token of the owner's own making; ``columns`` change what is asked for."""
    values: dict[str, Any] = {"name": f"test {ApiToken.objects.count()}", "expires_at": clock.now() + timedelta(days=1)}
    token = ApiToken(owner=owner, scopes=list(scopes), **{**values, **columns})
    return token, make_token(token, maker=owner)


@pytest.fixture
def root(db: None, redis_url: str) -> User:
    return person("superuser")


@pytest.fixture
def program(root: User) -> Program:
    """One that may do everything."""
    return Program(token_for(root, *SCOPES)[1])


@pytest.fixture
def with_scopes(root: User) -> Callable[..., Program]:
    return lambda *scopes: Program(token_for(root, *scopes)[1])


@pytest.fixture(autouse=True)
def _no_limits_of_another_test(settings: Any) -> Iterator[None]:
    """The process remembers the profiles that it has seen in force, and their roles."""
    settings.ZANTARA_LIMITS_TIMEOUT_SECONDS = 20.0  # a busy machine must not look like a store that is away
    get_limiter.cache_clear()
    role_source.forget()
    yield
    get_limiter.cache_clear()
    role_source.forget()


@pytest.fixture
def roles_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten seconds some request asks the database for the roles; not in a test that counts queries."""
    monkeypatch.setattr(role_source, "_ask_at", float("inf"))
