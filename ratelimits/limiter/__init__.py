"""The limiter's decision: one script call in Redis, the same arithmetic in this process when Redis is away."""

from __future__ import annotations

from functools import lru_cache

from ratelimits.config import limits_config, on_settings_change

from .outcome import Asker, Decision, Window
from .service import Limiter

__all__ = ["Asker", "Decision", "Limiter", "Window", "get_limiter"]


@lru_cache(maxsize=1)
def get_limiter() -> Limiter:
    """This process's limiter, made at the first request."""
    return Limiter(limits_config())


on_settings_change(get_limiter.cache_clear)
