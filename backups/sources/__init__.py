"""The kinds of things that can be saved, one module each."""

from __future__ import annotations


def register_kinds() -> None:
    """Make every kind known. Called when Django starts; again is fine."""
    from .base import kinds
    from .files import FilesSource
    from .logs import LogsSource
    from .sqlite import SqliteSource

    kinds.add("files", FilesSource)
    kinds.add("logs", LogsSource)
    kinds.add("sqlite", SqliteSource)
