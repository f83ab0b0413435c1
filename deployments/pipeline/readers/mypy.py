"""The type check of a Python release: mypy's own count of errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.pipeline.base import Findings, StepSeen

from .common import count, ended_otherwise, finding, last_line, missing_tool, own_or

OWN = ("{python}", "-m", "mypy", "--no-color-output", ".")

_CLEAN = re.compile(r"^Success: no issues found in (\d+) source files?", re.MULTILINE)
_FOUND = re.compile(r"^Found (\d+) errors? in (\d+) files? \((?:checked (\d+) source|errors prevented)", re.MULTILINE)
_FIRST = re.compile(r"^(?!\$ )(\S+:\d+)(?::\d+)?: error: (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mypy:
    """``mypy``: any error fails; nothing to check, or no mypy, cannot be told."""

    name: str = "mypy"
    label: str = "type check (mypy)"

    def argv(self, command: str) -> Sequence[str]:
        """The operator's command, else mypy over the whole checkout."""
        return own_or(command, OWN)

    def read(self, output: str, seen: StepSeen) -> Findings:
        """Errors and files, and the first error."""
        if (early := missing_tool(output, seen, "mypy") or ended_otherwise(seen)) is not None:
            return early
        clean = _CLEAN.search(output)
        if seen.exit_code == 0 and clean:
            return finding(
                "passed", f"No errors in {count(int(clean[1]), 'file')}.", {"errors": 0, "files": int(clean[1])}
            )
        found = _FOUND.search(output)
        if found:
            errors, files = int(found[1]), int(found[2])
            first = _FIRST.search(output)
            said = f"; the first: {first[1]} {first[2]}" if first else ""
            numbers = {"errors": errors, "files": files, **({"checked": int(found[3])} if found[3] else {})}
            return finding("failed", f"{count(errors, 'error')} in {count(files, 'file')}{said}", numbers)
        return finding("unknown", f"mypy did not say what it found: {last_line(output) or 'it said nothing'}")
