"""What the System page tells, read softly: a server that does not answer is a sentence, never an error page."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest
from redis.backoff import NoBackoff
from redis.retry import Retry

from controlplane.console.base import human_bytes, human_seconds, relative_text
from controlplane.kernel import clock

QUEUES = ("engine", "work", "proof")
#: Each question to Redis. The page makes one connection and one round trip, so it stays below a second.
REDIS_TIMEOUT_SECONDS = 0.25
NOT_REACHABLE = "not reachable"

#: The header names that proxies use to speak of a client and of the outer connection.
FORWARDING_HEADERS = (
    "Host", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port",
    "X-Real-Ip", "X-Request-Id", "X-Request-Start", "Via",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One line. ``shareable`` False keeps it out of the bug report (addresses, paths, host names)."""

    name: str
    shown: object
    shareable: bool = True


@dataclass(frozen=True)
class Section:
    title: str
    facts: list[Fact]
    intro: str = ""
    #: ``wide``: over both columns; ``tall``: beside two others.
    shape: Literal["", "wide", "tall"] = ""


@dataclass(frozen=True)
class RedisFacts:
    version: str = NOT_REACHABLE
    memory: str = NOT_REACHABLE
    queues: dict[str, int] = field(default_factory=dict)


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def project_version() -> str:
    """The installed version, or what ``pyproject.toml`` beside the source says."""
    found = _version_of("zantara-controlplane")
    if found != "not installed":
        return found
    import tomllib

    try:
        with (Path(settings.BASE_DIR) / "pyproject.toml").open("rb") as file:
            return f"{tomllib.load(file)['project']['version']} (from source)"
    except (OSError, KeyError, ValueError):
        return "unknown"


def read_redis(url: str | None) -> RedisFacts:
    """Version, memory and queue lengths in one round trip; never longer than two time-outs."""
    if not url:
        return RedisFacts("not configured", "not configured")
    client = redis.Redis.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    try:
        with client.pipeline(transaction=False) as pipe:
            pipe.info()
            for queue in QUEUES:
                pipe.llen(queue)
            info, *lengths = pipe.execute()
    except (redis.RedisError, OSError):
        return RedisFacts()
    finally:
        client.close()
    name = "Valkey" if info.get("valkey_version") else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "unknown")
    memory = human_bytes(int(info.get("used_memory", 0)))
    return RedisFacts(f"{name} {version}", memory, dict(zip(QUEUES, map(int, lengths), strict=True)))


def database_version() -> str:
    try:
        connection.ensure_connection()
        numbers = connection.get_database_version()
    except DatabaseError:
        return NOT_REACHABLE
    return f"{connection.display_name} {'.'.join(map(str, numbers))}"


def pending_migrations() -> list[str] | None:
    """The names of migrations that are not applied; None if the database does not answer."""
    try:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return None
    return [f"{step.app_label}.{step.name}" for step, _backwards in plan]


def heartbeat_text() -> str:
    from controlplane.schedules.heartbeat import last_heartbeat

    at = last_heartbeat()
    return "unknown (none seen, or Redis does not say)" if at is None else relative_text(at, clock.now())


def softly(read: Callable[[], str]) -> str:
    """The value, or "unknown" with the kind of what went wrong; the message may hold a secret."""
    try:
        return read()
    except Exception as problem:  # noqa: BLE001  (a bug-report page must answer above all when something is broken)
        return f"unknown ({type(problem).__name__})"


def versions(facts: RedisFacts) -> Section:
    lines = [
        Fact("Zantara control plane", softly(project_version)),
        Fact("Python", platform.python_version()),
        *(Fact(label, _version_of(name)) for label, name in _PACKAGES),
        Fact("Database", softly(database_version)),
        Fact("Redis server", facts.version),
        Fact("Machine", f"{platform.system()} {platform.machine()}"),
    ]
    return Section("Versions", lines, shape="tall")


_PACKAGES = (
    ("Django", "django"),
    ("Celery", "celery"),
    ("django-celery-beat", "django-celery-beat"),
    ("granian", "granian"),
    ("redis-py", "redis"),
)


def work(facts: RedisFacts) -> Section:
    pending = pending_migrations()
    if pending is None:
        migrations = NOT_REACHABLE
    else:
        migrations = f"{len(pending)} pending: {', '.join(pending)}" if pending else "all applied"
    queues = [
        Fact(f"Queue “{name}”", f"{facts.queues[name]} waiting" if name in facts.queues else NOT_REACHABLE)
        for name in QUEUES
    ]
    return Section(
        "Work",
        [Fact("Migrations", migrations), *queues, Fact("Beat's heartbeat", softly(heartbeat_text))],
    )


def storage(facts: RedisFacts) -> Section:
    folder = Path(settings.ZANTARA_DATA_DIR)

    def free() -> str:
        usage = shutil.disk_usage(folder)
        return f"{human_bytes(usage.free)} of {human_bytes(usage.total)} ({usage.free / usage.total:.0%})"

    return Section(
        "Storage",
        [
            Fact("Data directory", str(folder), shareable=False),
            Fact("Free disk there", softly(free)),
            Fact("Database at", softly(_database_place), shareable=False),
            Fact("Redis at", redis_place(settings.ZANTARA_REDIS_URL), shareable=False),
            Fact("Redis memory", facts.memory),
            Fact("Session lifetime", human_seconds(settings.SESSION_COOKIE_AGE)),
        ],
    )


def _database_place() -> str:
    named = connection.settings_dict
    host = f"{named['HOST']}:{named['PORT'] or 'default port'} " if named.get("HOST") else ""
    return f"{host}{named['NAME']}"


def redis_place(url: str | None) -> str:
    """Where Redis is, without user and password."""
    if not url:
        return "not configured"
    parts = urlsplit(url)
    place = parts.hostname or ""
    if parts.port:
        place = f"{place}:{parts.port}"
    return f"{parts.scheme}://{place}{parts.path}"


def caller(request: HttpRequest) -> Section:
    """What the proxies said about this very request, and who was believed to have sent it."""

    def client() -> str:
        from controlplane.identity.caller import client_of

        found = client_of(request)
        hops = f", believed by way of {', '.join(found.via)}" if found.via else ""
        return f"{found.address}{hops}{' (loopback)' if found.is_loopback else ''}"

    def person() -> str:
        from controlplane.identity.caller import caller_of, role_of

        found = caller_of(request)
        return f"{found.kind} “{found.subject}”, role {role_of(request)}"

    trusted = ", ".join(getattr(settings, "ZANTARA_TRUSTED_PROXIES", [])) or "none (ZANTARA_TRUSTED_PROXIES is empty)"
    lines = [
        Fact("REMOTE_ADDR", request.META.get("REMOTE_ADDR") or "empty (a UNIX socket)"),
        *(Fact(name, request.headers[name]) for name in FORWARDING_HEADERS if name in request.headers),
        Fact("Scheme as Django sees it", "https" if request.is_secure() else "http"),
        Fact("Trusted proxies", trusted),
        Fact("Client, as resolved", softly(client)),
        Fact("Caller, as resolved", softly(person)),
    ]
    return Section(
        "This request, as it arrived",
        [Fact(line.name, line.shown, shareable=False) for line in lines],
        intro="Limits count by the resolved client. If it is a proxy's address, name that proxy as trusted.",
        shape="wide",
    )
