"""One Redis client per process, impatient: a Redis that does not answer costs half a second, not a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from controlplane.kernel.errors import Unavailable

TIMEOUT_SECONDS = 0.5


def connect(url: str) -> redis.Redis:
    """A client whose every wait is bounded; a connection that Redis has closed is made anew, once."""
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


@lru_cache(maxsize=1)
def client() -> redis.Redis:
    """This process's client of ``ZANTARA_REDIS_URL``."""
    return connect(str(settings.ZANTARA_REDIS_URL))


@contextmanager
def answering() -> Iterator[None]:
    """Turn every way in which Redis can fail into Unavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(
            f"Redis did not answer ({type(error).__name__}).",
            remedy="Try again shortly; if it lasts, see that Redis runs and that ZANTARA_REDIS_URL names it.",
        ) from None
