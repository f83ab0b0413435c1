"""Any command: exit code 0 passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.pipeline.base import Findings, StepSeen

from .common import ended_otherwise, finding, last_line, split


@dataclass(frozen=True, slots=True)
class Command:
    """The operator's command, judged by its exit code alone."""

    name: str = "command"
    label: str = "command (exit code 0 passes)"

    def argv(self, command: str) -> Sequence[str]:
        """The operator's command; Refused where there is none."""
        return split(command)

    def read(self, output: str, seen: StepSeen) -> Findings:
        """Passed or failed, with the last line that it said."""
        if (otherwise := ended_otherwise(seen)) is not None:
            return otherwise
        said = last_line(output)
        said = "" if said.startswith("$ ") else said
        if seen.exit_code == 0:
            return finding("passed", said or "It ended well.", {"exit_code": 0})
        text = f"It ended with exit code {seen.exit_code}{f': {said}' if said else ', and said nothing.'}"
        return finding("failed", text, {"exit_code": seen.exit_code})
