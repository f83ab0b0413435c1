"""How long a request waited in front of the application, if a trusted proxy says when it took it in."""

from __future__ import annotations

import re
import time

from django.http import HttpRequest

from controlplane.identity.addresses import parse_address
from controlplane.identity.config import proxy_settings

#: ``t=1700000000.123`` (seconds), ``t=1700000000123`` (ms) or ``t=1700000000123456`` (µs), with or without "t=".
_START = re.compile(r"(?:t=)?(\d{9,16})(?:\.(\d{1,9}))?")
#: A wait beyond this is a clock that is wrong.
MOST_SECONDS = 300.0


def queue_wait_seconds(request: HttpRequest) -> float | None:
    """Seconds between X-Request-Start and now; None without it, from a peer that nobody trusts, or for nonsense."""
    text = request.META.get("HTTP_X_REQUEST_START")
    if not text or not _is_trusted(request.META.get("REMOTE_ADDR") or ""):
        return None
    return wait_since(text, time.time())


def wait_since(text: str, now: float) -> float | None:
    """``now`` in seconds since 1970. A start a little in the future (two clocks) is no wait."""
    parts = _START.fullmatch(text.strip())
    if parts is None:
        return None
    whole, fraction = parts.groups()
    scale = 1.0 if len(whole) <= 11 else 1e3 if len(whole) <= 14 else 1e6
    wait = now - float(f"{whole}.{fraction or 0}") / scale
    return max(0.0, wait) if -1 < wait < MOST_SECONDS else None


def _is_trusted(peer: str) -> bool:
    trust = proxy_settings()
    address = parse_address(peer)
    if address is None:
        return trust.local_socket and not peer.strip()
    return any(address in network for network in trust.networks if network.version == address.version)
