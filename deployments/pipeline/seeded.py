"""The steps that a Python service begins with: type check, tests, security audit, outdated dependencies, disk space."""

from __future__ import annotations

from typing import Any

#: Name, kind, time limit in seconds, whether a failure blocks, what is done where it cannot be told.
_CHECKS: tuple[tuple[str, str, int, bool, str], ...] = (
    ("disk space", "disk_space", 30, True, "block"),
    ("type check", "mypy", 900, True, "block"),
    ("test suite", "pytest", 1800, True, "block"),
    ("security audit", "pip_audit", 300, True, "warn"),
    ("outdated dependencies", "outdated", 300, False, "warn"),
)


def seeded_steps() -> list[dict[str, Any]]:
    """The fields of each ``PipelineStep``, in their order. The cheapest check comes first."""
    return [
        {
            "phase": "check",
            "position": 10 * place,
            "name": name,
            "kind": kind,
            "command": "",
            "timeout_seconds": timeout,
            "blocks": blocks,
            "unknown_policy": unknown,
            "enabled": True,
        }
        for place, (name, kind, timeout, blocks, unknown) in enumerate(_CHECKS, start=1)
    ]
