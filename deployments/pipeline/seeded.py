"""The steps of the sample service: disk space, type check, test suite, security audit, outdated dependencies."""

from __future__ import annotations

from typing import Any

#: Those of the sample's tests that need no servers: they take seconds, also beside instances under load.
_TESTS = " ".join(f"tests/zantara/test_{name}.py" for name in ("embedding", "ndjson", "settings", "vectors"))
#: Name, kind, command (none: the kind's own), time limit in seconds, whether a failure blocks, what is done where it
#: cannot be told. A fresh installation has neither mypy nor pytest: that it cannot tell is then only a warning.
_CHECKS: tuple[tuple[str, str, str, int, bool, str], ...] = (
    ("disk space", "disk_space", "", 30, True, "block"),
    (
        "type check", "mypy", "env ZANTARA_SECRET_KEY=type-check {python} -m mypy --no-color-output examples",
        900, True, "warn",
    ),
    ("test suite", "pytest", f"{{python}} -m pytest -q --color=no -p no:cacheprovider {_TESTS}", 900, True, "warn"),
    ("security audit", "pip_audit", "", 300, True, "warn"),
    ("outdated dependencies", "outdated", "", 300, False, "warn"),
)  # fmt: skip


def seeded_steps() -> list[dict[str, Any]]:
    """The fields of each ``PipelineStep``, in their order. The cheapest check comes first."""
    return [
        {
            "phase": "check",
            "position": 10 * place,
            "name": name,
            "kind": kind,
            "command": command,
            "timeout_seconds": timeout,
            "blocks": blocks,
            "unknown_policy": unknown,
            "enabled": True,
        }
        for place, (name, kind, command, timeout, blocks, unknown) in enumerate(_CHECKS, start=1)
    ]
