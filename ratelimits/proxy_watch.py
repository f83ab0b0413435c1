"""A proxy that is seen but not trusted: X-Forwarded-For arrives from a neighbour whom nobody configured.

All his callers then share one bucket. It shows only in requests, so each process looks at them (a header and
an address, no I/O), says it in its log, and leaves a note in Redis that the start page and ``manage.py
doctor`` read, from whichever service it was. Needs no database and works in a foreign project.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

import redis
import structlog
from django.core.signals import request_started

from controlplane.identity.addresses import UNIX, parse_address
from controlplane.identity.config import proxy_settings
from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.registry import Probe, ProbeResult

from .config import limits_config
from .limiter.keys import TAG

log = structlog.get_logger(__name__)

NOTES = f"{TAG}:untrusted-proxies"
#: Seconds between two notes of one process about the same peer, and for which a note is kept.
REPEAT_SECONDS = 600
KEPT_SECONDS = 3600
MOST_PEERS = 100
TIMEOUT_SECONDS = 0.2

_seen: dict[str, float] = {}


def untrusted_proxy(peer: str, has_forwarded_for: bool) -> str | None:
    """The peer's name if he looks like a proxy of ours that is not trusted, else None.

    Only neighbours count (private or loopback addresses, UNIX sockets): anybody on the internet can send
    the header, and then it is rightly passed over.
    """
    if not has_forwarded_for:
        return None
    trust = proxy_settings()
    address = parse_address(peer)
    if address is None:
        return None if peer.strip() or trust.local_socket else UNIX
    if not (address.is_private or address.is_loopback):
        return None
    if any(address.version == network.version and address in network for network in trust.networks):
        return None
    return str(address)


def watch(sender: object, **kwargs: Any) -> None:
    """Receiver of ``request_started``: WSGI gives an environ, ASGI a scope."""
    environ = kwargs.get("environ")
    if environ is not None:
        forwarded, peer = "HTTP_X_FORWARDED_FOR" in environ, environ.get("REMOTE_ADDR") or ""
    else:
        scope: Mapping[str, Any] = kwargs.get("scope") or {}
        forwarded = any(name == b"x-forwarded-for" for name, _ in scope.get("headers", ()))
        peer = (scope.get("client") or ("",))[0] or ""
    if not forwarded:
        return
    found = untrusted_proxy(peer, forwarded)
    now = clock.monotonic()
    if found is None or now < _seen.get(found, float("-inf")) or len(_seen) > MOST_PEERS:
        return
    _seen[found] = now + REPEAT_SECONDS
    log.warning("untrusted_proxy_seen", peer=found, remedy="Name it in ZANTARA_TRUSTED_PROXIES if it is yours.")
    # Not on the caller's path: his request does not wait for Redis.
    threading.Thread(target=_note, args=(found,), name="untrusted-proxy-note", daemon=True).start()


def _note(peer: str) -> None:
    try:
        with _client() as client:
            client.pipeline().hset(NOTES, peer, int(clock.now().timestamp())).expire(NOTES, KEPT_SECONDS).execute()
    except (redis.RedisError, OSError, ConfigurationError):
        _seen.pop(peer, None)  # said again with the next request


def _client() -> redis.Redis:
    return redis.Redis.from_url(
        limits_config().redis_url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )


def peers_seen() -> list[str]:
    """The peers that services have noted within the last hour and that are not trusted by now."""
    with _client() as client:
        notes = cast("dict[bytes, bytes]", client.hgetall(NOTES))
    oldest = clock.now().timestamp() - KEPT_SECONDS
    fresh = sorted(peer.decode() for peer, at in notes.items() if float(at) >= oldest)
    return [peer for peer in fresh if untrusted_proxy("" if peer == UNIX else peer, True)]


def probe_proxies() -> ProbeResult:
    try:
        peers = peers_seen()
    except (redis.RedisError, OSError, ConfigurationError):
        return ProbeResult("unknown", "Redis does not answer, so nothing is known of proxies.")
    if not peers:
        return ProbeResult("pass", "No proxy was seen that is not trusted.")
    return ProbeResult(
        "warn",
        f"X-Forwarded-For came from {', '.join(peers)}, which nobody trusts: all callers behind it share one count.",
        remedy=f"Set ZANTARA_TRUSTED_PROXIES={','.join(peers)} if that is a proxy of yours; else a client invented it.",
        observed=float(len(peers)),
    )


PROBE = Probe(
    name="limits.proxies",
    label="Proxies in front",
    run=probe_proxies,
    docs="docs/limits.md#a-proxy-that-is-seen-but-not-trusted",
)


def connect() -> None:
    request_started.connect(watch, dispatch_uid="ratelimits.proxy_watch")
