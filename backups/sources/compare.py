"""Say what differs between what was expected and what was found, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .base import Finding

#: So many differences of one sort are named; the rest are counted. A page with ten thousand lines helps nobody.
MOST_NAMED = 20


def differences(
    noun: str,
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    describe: Callable[[Any, Any], str] = lambda _expected, _found: "is not as it was",
) -> list[Finding]:
    """A ``fail`` for each entry that is missing, added or changed; nothing where the two are equal.

    ``describe(expected, found)`` ends the sentence of a changed entry.
    """
    missing = sorted(expected.keys() - found.keys())
    added = sorted(found.keys() - expected.keys())
    changed = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    return [
        *_named(missing, lambda name: f"{noun} {name} is missing", f"{noun} entries are missing"),
        *_named(added, lambda name: f"{noun} {name} was not in the source", f"{noun} entries were not in the source"),
        *_named(
            changed,
            lambda name: f"{noun} {name} {describe(expected[name], found[name])}",
            f"{noun} entries are not as they were",
        ),
    ]


def _named(names: list[str], sentence: Callable[[str], str], rest: str) -> list[Finding]:
    findings = [Finding("fail", sentence(name)) for name in names[:MOST_NAMED]]
    if len(names) > MOST_NAMED:
        findings.append(Finding("fail", f"and {len(names) - MOST_NAMED} more {rest}"))
    return findings


def verdict(problems: list[Finding], all_well: str) -> list[Finding]:
    """The problems, or one ``pass`` where none of them is a ``fail``."""
    if any(finding.status == "fail" for finding in problems):
        return problems
    return [Finding("pass", all_well), *problems]


def shortened(warnings: list[str], most: int = 100) -> tuple[str, ...]:
    """At most so many warnings, and how many more there were."""
    if len(warnings) <= most:
        return tuple(warnings)
    return (*warnings[:most], f"and {len(warnings) - most} more warnings")
