"""What this app brings to the registries of the ground floor. Called once, when Django starts."""

from __future__ import annotations


def register() -> None:
    """Kinds of targets and steps, probes, schedules, messages, metrics; adding the same again is fine."""
