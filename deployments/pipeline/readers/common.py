"""What all kinds share: an operator's command in parts, and ends that mean the same whatever was run."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.kernel.errors import Refused
from deployments.pipeline.base import Findings, Outcome, StepSeen

#: StepRun.summary holds 500 characters.
LONGEST_SUMMARY = 480
NOT_FOUND = 127

_SHELL_WORDS = frozenset({"&&", "||", "|", ">", ">>", "<", "<<", "&", "2>&1", "2>"})
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_NO_MODULE = re.compile(r"^\S*python[\d.]*\S*: No module named '?([\w.]+)'?$", re.MULTILINE)


def split(command: str) -> tuple[str, ...]:
    """The operator's command as a program and its arguments. Refused where it was meant for a shell."""
    try:
        parts = tuple(shlex.split(command))
    except ValueError as error:
        raise Refused(f"The command cannot be read: {error}.", remedy="Close every quotation mark.") from None
    if not parts or not parts[0]:
        raise Refused("The step has no command.", remedy="Give a program and its arguments.")
    words = [part for part in parts if part in _SHELL_WORDS or (part.endswith(";") and len(part) > 1)]
    if words:
        raise Refused(
            f"{words[0]!r} is for a shell, and no shell reads the command.",
            remedy="Make it two steps, or put it into a script of the release and run that.",
        )
    if _ASSIGNMENT.match(parts[0]):
        raise Refused(
            f"{parts[0].partition('=')[0]}=… before a program is for a shell, and no shell reads the command.",
            remedy=f"Write: env {command.strip()}",
        )
    return parts


def own_or(command: str, own: Sequence[str]) -> tuple[str, ...]:
    """The operator's command, else the kind's own."""
    return split(command) if command.strip() else tuple(own)


def finding(outcome: Outcome, summary: str, numbers: Mapping[str, Any] | None = None) -> Findings:
    """Findings with a sentence that fits its column."""
    text = " ".join(summary.split())
    return Findings(outcome, text if len(text) <= LONGEST_SUMMARY else text[: LONGEST_SUMMARY - 1] + "…", numbers or {})


def ended_otherwise(seen: StepSeen) -> Findings | None:
    """What is to be said where the command did not end by itself; None where it did."""
    if seen.running:
        return finding("unknown", "It still runs.")
    if seen.gone:
        return finding("unknown", "It vanished without an end: the machine was restarted, or somebody killed it.")
    if seen.timed_out:
        return finding("timed_out", seen.reason or "It took too long and was stopped.")
    if seen.reason:
        return finding("failed", seen.reason)
    if seen.exit_code is not None and seen.exit_code < 0:
        return finding(
            "failed", f"It was killed by {_signal_name(-seen.exit_code)}: perhaps this machine's memory was short."
        )
    return None


def missing_tool(output: str, seen: StepSeen, tool: str) -> Findings | None:
    """Unknown where the tool itself is not there: nothing was learned of the release."""
    match = _NO_MODULE.search(output)
    if (match and match[1].partition(".")[0] == tool.replace("-", "_")) or (
        seen.exit_code == NOT_FOUND and seen.reason.startswith(f"{tool} was not found")
    ):
        return finding(
            "unknown",
            f"{tool} is not installed where this step ran: add it to the release's environment (.venv), "
            "or to that of the control plane.",
        )
    return None


def last_line(output: str) -> str:
    """The last line that says something; empty if none does."""
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


def count(number: int, word: str, plural: str = "") -> str:
    """``1 error``, ``3 errors``, ``0 errors``."""
    return f"{number} {word if number == 1 else plural or word + 's'}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
