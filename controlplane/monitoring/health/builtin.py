"""The probes that every process has: its database and its Redis, where the settings name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections

from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult, probes

#: Shorter than the probe's deadline, so that an answer of ours says what happened.
REDIS_TIMEOUT_SECONDS = 0.4
SQLITE = (  # Django's own, and the one that counts its queries for /metrics
    "django.db.backends.sqlite3",
    "django_prometheus.db.backends.sqlite3",
)


def register_builtin_probes(*, redis_critical: bool = False) -> None:
    """Add ``database`` and ``redis``, each only where the settings name one. Call it in ``AppConfig.ready()``.

    Redis is not critical by default: limits have a fail mode for its absence, and taking every instance
    out of service at once would be worse.
    """
    if has_database():
        probes.add(
            "database",
            Probe("database", "the database", probe_database, critical=True, docs="docs/checks.md#probe-database"),
        )
    if redis_url():
        probes.add(
            "redis", Probe("redis", "Redis", probe_redis, critical=redis_critical, docs="docs/checks.md#probe-redis")
        )


def has_database() -> bool:
    """Whether the project has a default database; Django fills a missing one with a dummy."""
    engine = settings.DATABASES.get("default", {}).get("ENGINE", "")
    return bool(engine) and engine != "django.db.backends.dummy"


def redis_url() -> str | None:
    """``ZANTARA_REDIS_URL`` of the settings, if it is set."""
    return getattr(settings, "ZANTARA_REDIS_URL", None) or None


def missing_sqlite_file() -> Path | None:
    """The default database's file where it is SQLite's and not there: connecting would create an empty one."""
    database: dict[str, Any] = settings.DATABASES["default"]
    name = str(connections["default"].settings_dict["NAME"])
    if database["ENGINE"] not in SQLITE or ":memory:" in name or "mode=memory" in name or Path(name).exists():
        return None
    return Path(name)


def probe_database() -> ProbeResult:
    """One trivial query on a new connection; observed in milliseconds."""
    if missing_sqlite_file() is not None:
        return ProbeResult("fail", "there is no database yet", remedy="Run `manage.py bootstrap`.")
    begun = clock.monotonic()
    try:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except DatabaseError as error:
        # The driver's text names hosts, users and files: it goes to the terminal of doctor, not to callers.
        return ProbeResult(
            "fail",
            f"the database does not answer ({type(error).__name__})",
            remedy="Start the database server, or correct ZANTARA_DATABASE_URL.",
        )
    return _answered(begun)


def probe_redis() -> ProbeResult:
    """One PING on a new connection; observed in milliseconds."""
    import redis

    begun = clock.monotonic()
    try:
        with redis_client() as client:
            client.ping()
    except redis.RedisError as error:
        return ProbeResult(
            "fail",
            f"Redis does not answer ({type(error).__name__})",
            remedy="Start Redis (`manage.py up` runs one), or correct ZANTARA_REDIS_URL.",
        )
    return _answered(begun)


def redis_client() -> Any:
    """A client that gives up quickly and does not try again: a probe reports what is, not what may become."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        redis_url() or "",
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def _answered(begun: float) -> ProbeResult:
    taken = (clock.monotonic() - begun) * 1000
    return ProbeResult("pass", f"answers in {taken:.1f} ms", observed=round(taken, 3), unit="ms")
