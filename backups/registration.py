"""What this app brings to the registries of the ground floor. Called once, when Django starts."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from backups.sources.base import Source, kinds

#: Kind -> its module and class, in the order in which they are offered.
SOURCES = {
    "sqlite": "sqlite.SqliteSource",
    "postgres": "postgres.PostgresSource",
    "chroma": "chroma.ChromaSource",
    "memory_vectors": "memory_vectors.MemoryVectorsSource",
    "redis": "redis.RedisSource",
    "files": "files.FilesSource",
    "logs": "logs.LogsSource",
    "userdata": "userdata.UserDataSource",
}


def register() -> None:
    """Kinds of sources, probes, schedules, messages, metrics; adding the same again is fine."""
    from controlplane.kernel.registry import probes, schedules
    from controlplane.monitoring import registry as metrics_registry
    from controlplane.notifications.api import kinds as messages

    from . import health, metrics, services, tasks
    from .engine import notices

    register_sources()
    services.register_service_controls()
    for kind in notices.KINDS:
        messages.add(kind.name, kind)
    for spec in tasks.SCHEDULES:
        schedules.add(spec.name, spec)
    probes.add(health.PROBE.name, health.PROBE)


def register_sources() -> None:
    """Every kind that the project has."""
    for name, path in SOURCES.items():
        module, _, class_name = path.partition(".")
        if find_spec(f"backups.sources.{module}") is None:
            continue
        found: type[Source] = getattr(import_module(f"backups.sources.{module}"), class_name)
        kinds.add(name, found)
