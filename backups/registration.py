"""What this app brings to the registries of the ground floor. Called once, when Django starts."""

from __future__ import annotations


def register() -> None:
    """Kinds of sources, probes, schedules, cards, setup steps; adding the same again is fine."""
