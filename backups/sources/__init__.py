"""The kinds of things that can be saved, one module each."""

from __future__ import annotations


def register_kinds() -> None:
    """Make every kind known. Called when Django starts; again is fine."""
    from .base import kinds
    from .chroma import ChromaSource
    from .files import FilesSource
    from .logs import LogsSource
    from .memory_vectors import MemoryVectorsSource
    from .postgres import PostgresSource
    from .redis import RedisSource
    from .sqlite import SqliteSource
    from .userdata import UserDataSource

    kinds.add("chroma", ChromaSource)
    kinds.add("files", FilesSource)
    kinds.add("logs", LogsSource)
    kinds.add("memory_vectors", MemoryVectorsSource)
    kinds.add("postgres", PostgresSource)
    kinds.add("redis", RedisSource)
    kinds.add("sqlite", SqliteSource)
    kinds.add("userdata", UserDataSource)
