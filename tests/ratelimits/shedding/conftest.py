from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

OWN_DATABASE = 10  # services that other tests left running would put a policy of the usual one back into it


@pytest.fixture
def redis_url(redis_url: str) -> Iterator[str]:
    assert "db=0" in redis_url
    own = redis_url.replace("db=0", f"db={OWN_DATABASE}")
    with redis.Redis.from_url(own) as client:
        client.flushdb()
        yield own
        client.flushdb()


@pytest.fixture(autouse=True)
def _own_database(settings: Any, redis_url: str) -> None:
    """What this process publishes and reads is there, too. The change also makes its clients and its source anew."""
    settings.ZANTARA_REDIS_URL = redis_url
