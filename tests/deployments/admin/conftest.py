"""People of each group."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.console.people import person, signed_in


@pytest.fixture
def admin(db: None, redis_url: str) -> Client:
    """Somebody who may do everything."""
    return signed_in(person("superuser"))


@pytest.fixture
def operator(db: None, redis_url: str) -> Client:
    return signed_in(person("Operator"))


@pytest.fixture
def viewer(db: None, redis_url: str) -> Client:
    return signed_in(person("Viewer"))
