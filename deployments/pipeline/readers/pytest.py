"""The test suite of a Python release: pytest's own counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.pipeline.base import Findings, StepSeen

from .common import count, ended_otherwise, finding, last_line, missing_tool, own_or, some

OWN = ("{python}", "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider")

#: pytest's exit codes: tests failed, interrupted (also: a module that cannot be collected), no test was collected.
_FAILED, _INTERRUPTED, _NO_TESTS = 1, 2, 5
_SUMMARY = re.compile(
    r"^=*\s*(?P<counts>\d+ [a-z][a-z ]*(?:, \d+ [a-z][a-z ]*)*|no tests ran) in \d+(?:\.\d+)?s\b[^\n]*$", re.MULTILINE
)
_COUNT = re.compile(r"(\d+) ([a-z][a-z ]*)")
_NAMES = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_WORDS = {"error": "errors", "warning": "warnings"}


@dataclass(frozen=True, slots=True)
class Pytest:
    """``pytest``: a failed test fails; a suite in which no test ran cannot be told."""

    name: str = "pytest"
    label: str = "test suite (pytest)"

    def argv(self, command: str) -> Sequence[str]:
        """The operator's command, else pytest as the checkout configures it."""
        return own_or(command, OWN)

    def read(self, output: str, seen: StepSeen) -> Findings:
        """How many passed, failed, broke and were left out, and which failed."""
        if (early := missing_tool(output, seen, "pytest") or ended_otherwise(seen)) is not None:
            return early
        numbers = _numbers(output)
        if seen.exit_code == _NO_TESTS:
            return finding("unknown", "No test was found in the checkout.", numbers or _none())
        if seen.exit_code in (_FAILED, _INTERRUPTED):
            names = _NAMES.findall(output)
            which = f": {some(names, 3)}" if names else ""
            said = _sentence(numbers) if numbers else f"pytest ended with exit code {seen.exit_code}"
            return finding("failed", f"{said}{which}", numbers)
        if seen.exit_code != 0:
            return finding("unknown", f"pytest did not run (exit code {seen.exit_code}): {_complaint(output)}", numbers)
        if not numbers:
            return finding("passed", "All tests passed; how many, it did not say.")
        if not numbers["passed"]:
            return finding("unknown", f"No test ran: {_sentence(numbers)}.", numbers)
        return finding("passed", f"{_sentence(numbers)}.", numbers)


def _none() -> dict[str, int]:
    return {"passed": 0, "failed": 0, "errors": 0, "skipped": 0}


def _numbers(output: str) -> dict[str, int]:
    """The counts of the last summary; empty if there is none."""
    matches = list(_SUMMARY.finditer(output))
    if not matches:
        return {}
    pairs = _COUNT.findall(matches[-1]["counts"])
    return _none() | {_WORDS.get(word, word.replace(" ", "_")): int(number) for number, word in pairs}


def _sentence(numbers: dict[str, int]) -> str:
    parts = [f"{numbers['passed']} passed"]
    parts += [f"{numbers[name]} {name}" for name in ("failed", "skipped") if numbers[name]]
    parts += [count(numbers["errors"], "error")] if numbers["errors"] else []
    return ", ".join(parts)


def _complaint(output: str) -> str:
    """pytest's own complaint; its last lines name only directories."""
    match = re.search(r"^(?:\S+: error|ERROR|INTERNALERROR>): (.+)$", output, re.MULTILINE)
    errors = re.findall(r"^.*: error: (.+)$", output, re.MULTILINE)
    return errors[-1] if errors else match[1] if match else last_line(output)
