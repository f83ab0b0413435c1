"""Outdated dependencies of a Python environment: a warning, never a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.pipeline.base import Findings, StepSeen

from .common import count, ended_otherwise, finding, last_line, missing_tool, own_or, some

OWN = ("{python}", "-m", "pip", "list", "--outdated", "--format", "json", "--disable-pip-version-check")

#: pip answers an unreachable index with an empty list and exit code 0; only its remarks tell.
_UNREACHABLE = re.compile(
    r"connection broken by|Could not fetch URL|Max retries exceeded|Read timed out", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Outdated:
    """``pip list --outdated``: newer releases are a warning; an unreachable index cannot be told."""

    name: str = "outdated"
    label: str = "outdated dependencies (pip list)"

    def argv(self, command: str) -> Sequence[str]:
        """The operator's command, else pip's list of the release's environment."""
        return own_or(command, OWN)

    def read(self, output: str, seen: StepSeen) -> Findings:
        """How many packages have a newer release, and which."""
        if (early := missing_tool(output, seen, "pip") or ended_otherwise(seen)) is not None:
            return early
        listed = _listed(output)
        if listed:
            names = [f"{name} {old} → {new}" for name, old, new in listed]
            many = count(len(listed), "package has a newer release", "packages have newer releases")
            return finding("warned", f"{many}: {some(names)}", {"outdated": len(listed)})
        if seen.exit_code != 0 or listed is None or _UNREACHABLE.search(output):
            said = "the package index was not reached" if _UNREACHABLE.search(output) else last_line(output)
            return finding("unknown", f"pip could not tell: {said or 'it said nothing'}")
        return finding("passed", "Every dependency is the newest.", {"outdated": 0})


def _listed(output: str) -> list[tuple[str, str, str]] | None:
    """Name, version and newest version of each; None where pip printed no list."""
    for line in reversed(output.splitlines()):
        if line.startswith("["):
            try:
                return [(str(one["name"]), str(one["version"]), str(one["latest_version"])) for one in json.loads(line)]
            except (ValueError, KeyError, TypeError):
                continue
    return None
