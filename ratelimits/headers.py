"""What a caller is told: header fields in three dialects, and the signed id of a denial.

``draft-10``  ``RateLimit`` and ``RateLimit-Policy`` of draft-ietf-httpapi-ratelimit-headers-10, in the
              canonical bytes of RFC 9651; ``t`` is seconds until more becomes available. A denial gives it
              for the windows that denied alone: Retry-After must not point earlier than any ``t``
``draft-6``   ``RateLimit-Limit``, ``-Remaining``, ``-Reset`` of the most constrained window
``legacy``    the same three as ``X-RateLimit-*``, ``Reset`` in seconds left
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from controlplane.kernel.errors import Refused

from .config import LimitsConfig, limits_config
from .limiter.keys import CALLER_BYTES, caller_text
from .limiter.outcome import Decision, Window

#: https://iana.org/assignments/http-problem-types, registered by the same draft.
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
TEMPORARY_REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

#: Which version of the policy set decided: an edit has reached a process when its answers carry the new number.
VERSION_FIELD = "Zantara-Policy-Version"


def _seconds(microseconds: int) -> int:
    return -(-microseconds // 1_000_000)


def header_fields(decision: Decision, dialects: Iterable[str]) -> dict[str, str]:
    """The fields for one answer; none where nothing was counted (no policy, or the store is away)."""
    if not decision.windows:
        return {}
    fields = {VERSION_FIELD: str(decision.version)}
    windows = decision.windows
    tightest = min(windows, key=lambda w: (-w.wait_us, w.remaining))
    for dialect in dialects:
        if dialect == "draft-10":
            fields["RateLimit-Policy"] = ", ".join(f'"{w.name}";q={w.limit};w={w.seconds}' for w in windows)
            fields["RateLimit"] = ", ".join(_member(w, denied=not decision.allowed) for w in windows)
        else:
            prefix = "RateLimit" if dialect == "draft-6" else "X-RateLimit"
            fields[f"{prefix}-Limit"] = str(tightest.limit)
            fields[f"{prefix}-Remaining"] = str(_left(tightest))
            fields[f"{prefix}-Reset"] = str(_seconds(_until_more(tightest)))
    if not decision.allowed:
        fields["Retry-After"] = str(decision.retry_after_seconds)
    return fields


def _member(window: Window, *, denied: bool) -> str:
    until_more = "" if denied and not window.wait_us else f";t={_seconds(_until_more(window))}"
    return f'"{window.name}";r={_left(window)}{until_more}'


def _left(window: Window) -> int:
    return 0 if window.wait_us else window.remaining


def _until_more(window: Window) -> int:
    """A denied window's ``t`` is the wait itself, so that it never points past ``Retry-After``."""
    return window.wait_us or window.reset_us


# --- decision ids ----------------------------------------------------------------------------

# form, policy, version, limit, window, used, milliseconds, number of the window, caller
_FORM = 1
_LAYOUT = struct.Struct(f">BqQIIIQB{CALLER_BYTES}s")
_SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a decision id says: everything about the denial that the limiter knew, nothing about the person."""

    policy_id: int
    policy_version: int
    limit: int
    window_seconds: int
    used: int
    denied_at: datetime
    is_burst: bool
    key_hash: str


def decision_id(decision: Decision, config: LimitsConfig | None = None, *, now: float | None = None) -> str:
    """An id that carries its own evidence, signed: nothing is stored that an attacker could fill."""
    window = max(decision.violated, key=lambda w: w.wait_us)
    at = int((time.time() if now is None else now) * 1000)
    body = _LAYOUT.pack(
        _FORM, window.policy.id, decision.version, window.limit, window.seconds, min(window.used, 2**32 - 1), at,
        window.number, decision.caller,
    )  # fmt: skip
    return base64.urlsafe_b64encode(body + _signature(body, config or limits_config())).decode("ascii").rstrip("=")


def explain(text: str, config: LimitsConfig | None = None) -> Explanation:
    """Read a decision id. Refused if it is garbled or was not made by this installation."""
    config = config or limits_config()
    text = text.strip()
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        raise _garbled() from None
    if len(raw) != _LAYOUT.size + _SIGNATURE_BYTES:
        raise _garbled()
    body, signature = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
    if not hmac.compare_digest(signature, _signature(body, config)):
        raise Refused(
            "This decision id was not made by this installation.",
            remedy="Copy it whole from the answer's decision_id; another installation's secret differs.",
        )
    _, policy_id, version, limit, window_seconds, used, at, number, caller = _LAYOUT.unpack(body)
    return Explanation(
        policy_id=policy_id,
        policy_version=version,
        limit=limit,
        window_seconds=window_seconds,
        used=used,
        denied_at=datetime.fromtimestamp(at / 1000, UTC),
        is_burst=number == 1,
        key_hash=caller_text(caller),
    )


def _signature(body: bytes, config: LimitsConfig) -> bytes:
    return hmac.new(config.derived_key("decision"), body, sha256).digest()[:_SIGNATURE_BYTES]


def _garbled() -> Refused:
    return Refused("This is not a decision id.", remedy="Paste the whole decision_id of a 429 answer.")
