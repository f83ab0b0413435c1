"""Django's Redis cache, counted with django-prometheus' cache metrics.

django-prometheus brings such a backend itself, in a module that cannot be imported without django-redis.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django_prometheus.cache import metrics

BACKEND = "redis"
_MISSING = object()


class RedisCache(DjangoRedisCache):
    """Counts reads, hits, misses and reads that failed; a cached None is a hit."""

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        metrics.django_cache_get_total.labels(backend=BACKEND).inc()
        try:
            found = super().get(key, _MISSING, version)
        except Exception:
            metrics.django_cache_get_fail_total.labels(backend=BACKEND).inc()
            raise
        if found is _MISSING:
            metrics.django_cache_misses_total.labels(backend=BACKEND).inc()
            return default
        metrics.django_cache_hits_total.labels(backend=BACKEND).inc()
        return found

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        keys = list(keys)
        metrics.django_cache_get_total.labels(backend=BACKEND).inc(len(keys))
        try:
            found: dict[Any, Any] = super().get_many(keys, version)
        except Exception:
            metrics.django_cache_get_fail_total.labels(backend=BACKEND).inc(len(keys))
            raise
        metrics.django_cache_hits_total.labels(backend=BACKEND).inc(len(found))
        metrics.django_cache_misses_total.labels(backend=BACKEND).inc(len(keys) - len(found))
        return found
