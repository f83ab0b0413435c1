"""What a profile means, in words. Functions of plain data: no I/O, no Django."""

from __future__ import annotations

import math
import re

from controlplane.kernel.env import parse_duration

from .decision import DEFAULT_ROLE, Policy

_UNITS = ((86400, "day", "days"), (3600, "h", "h"), (60, "min", "min"))
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
_SHORT = {
    "": "s",
    **dict.fromkeys(("s", "sec", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
}


def duration_words(seconds: int) -> str:
    """``900`` as “15 min”: the largest unit that divides it. ``parse_words`` reads it back."""
    for size, one, many in _UNITS:
        if seconds >= size and seconds % size == 0:
            count = seconds // size
            return f"{count} {one if count == 1 else many}"
    return f"{seconds} s"


def parse_words(text: str) -> int:
    """Seconds in “15m”, “15 min”, “1 h 30 min”, “2 days” or “900”; ValueError otherwise."""
    rest, total = text.strip().lower(), 0.0
    if not rest:
        raise ValueError("no duration was given; write 15m, 1h or 900")
    while rest:
        match = _PART.match(rest)
        if match is None or match[2] not in _SHORT:
            raise ValueError(f"“{text}” is not a duration; write 15m, 1h, 1 h 30 min or 900 (seconds)")
        total += parse_duration(match[1] + _SHORT[match[2]])
        rest = rest[match.end() :]
    if not math.isfinite(total) or total != int(total):
        raise ValueError(f"“{text}” is not a whole number of seconds")
    return int(total)


def limit_words(policy: Policy) -> str:
    """“1000 / 15 min”, with the burst after it."""
    if policy.requests is None:
        return "unlimited"
    text = f"{policy.requests} / {duration_words(policy.window_seconds)}"
    if policy.burst_requests is not None and policy.burst_window_seconds is not None:
        text += f", {policy.burst_requests} / {duration_words(policy.burst_window_seconds)}"
    return text


_SHARED = {
    "ip:user": "Each address of a user counts on its own: from two addresses he gets twice as much.",
    "user": "One count per user, whatever his address; all callers without a user share one count.",
    "ip": "One count per address, whoever calls from it: people behind one address share it.",
    "user|ip": "One count per user, whatever his address; a caller without a user counts per address.",
}
_WHEN_AWAY = {
    "open": "While Redis does not answer, requests pass uncounted.",
    "closed": "While Redis does not answer, requests are refused with 503.",
    "local": "While Redis does not answer, each process lets its share of the limit pass.",
}


def _whom(policy: Policy) -> str:
    if policy.subject:
        whom = f"the caller “{policy.subject}”"
        if policy.role != DEFAULT_ROLE:
            whom += f" in the role “{policy.role}”"
    elif policy.role == DEFAULT_ROLE:
        whom = "one caller whose role has no profile of its own"
    else:
        whom = f"one caller in the role “{policy.role}”"
    return whom + (f", on paths that begin with {policy.route_prefix}," if policy.route_prefix else "")


def consequence(policy: Policy, *, active: bool = True) -> str:
    """What this profile does to a caller, as an operator would say it."""
    if policy.requests is None:
        sentences = [f"Never denied and not counted: {_whom(policy).rstrip(',')}."]
    else:
        window = duration_words(policy.window_seconds)
        first = f"In any {window} {_whom(policy)} gets at most {policy.requests} requests"
        if policy.burst_requests is not None and policy.burst_window_seconds is not None:
            window = duration_words(policy.burst_window_seconds)
            first += f", and at most {policy.burst_requests} of them in any {window}"
        sentences = [first + ".", _SHARED[policy.key], _WHEN_AWAY[policy.fail_mode]]
    if not policy.enforced:
        sentences.insert(0, "A shadow: nobody is denied, it only counts whom it would have denied.")
    if not active:
        sentences.insert(0, "Not active, so nothing of this happens yet.")
    return " ".join(sentences)
