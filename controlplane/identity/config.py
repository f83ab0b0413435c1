"""What the operator set, read once and checked. A foreign project sets only what it needs.

Read from Django's settings with defaults; read again after Django's ``setting_changed`` (tests).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from controlplane.kernel.errors import ConfigurationError

from .addresses import UNIX, Network, parse_networks

DEFAULT_ISSUER = DEFAULT_AUDIENCE = "zantara"
DEFAULT_ALGORITHMS = ("HS256",)
DEFAULT_TTL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """Whose X-Forwarded-For is believed, and how IPv6 callers are grouped."""

    networks: tuple[Network, ...]
    local_socket: bool
    ipv6_prefix: int


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """How bearer tokens are verified and issued. ``secret`` is never shown in a representation."""

    secret: bytes | None
    secret_file: Path | None
    public_key_files: tuple[Path, ...]
    algorithms: tuple[str, ...]
    issuer: str
    audience: str
    ttl_seconds: float

    def __repr__(self) -> str:
        return f"<TokenSettings {', '.join(self.algorithms)} issuer={self.issuer!r} audience={self.audience!r}>"


def words(name: str, default: Iterable[str] = ()) -> tuple[str, ...]:
    """A setting that is a list of words; a single string is the same text that the environment would hold."""
    value: Any = getattr(settings, name, None)
    if value is None:
        value = default
    parts = value.split(",") if isinstance(value, str) else [str(part) for part in value]
    return tuple(part.strip() for part in parts if part.strip())


@cache
def proxy_settings() -> ProxySettings:
    """ConfigurationError if the operator wrote something that is no network."""
    entries = words("ZANTARA_TRUSTED_PROXIES")
    prefix = getattr(settings, "ZANTARA_IPV6_PREFIX", 64)
    try:
        networks = parse_networks(entries)
    except ValueError as error:
        raise ConfigurationError(
            f"ZANTARA_TRUSTED_PROXIES is wrong: {error}.",
            remedy="List the addresses of your own proxies, separated by commas, or leave it empty.",
        ) from None
    if not isinstance(prefix, int) or isinstance(prefix, bool) or not 1 <= prefix <= 128:
        raise ConfigurationError(
            f"ZANTARA_IPV6_PREFIX is {prefix!r}, no prefix length.", remedy="Set a number from 32 to 128; 64 is usual."
        )
    return ProxySettings(networks=networks, local_socket=UNIX in entries, ipv6_prefix=prefix)


@cache
def token_settings() -> TokenSettings:
    """ConfigurationError if a secret is given twice; unreadable key files are the key ring's affair."""
    secret = getattr(settings, "ZANTARA_JWT_SECRET", None) or None
    secret_file = getattr(settings, "ZANTARA_JWT_SECRET_FILE", None) or None
    if secret is not None and secret_file is not None:
        raise ConfigurationError(
            "ZANTARA_JWT_SECRET and ZANTARA_JWT_SECRET_FILE are both set.", remedy="Keep one of the two."
        )
    return TokenSettings(
        secret=secret.encode() if isinstance(secret, str) else secret,
        secret_file=None if secret_file is None else Path(secret_file),
        public_key_files=tuple(Path(name) for name in words("ZANTARA_JWT_PUBLIC_KEY_FILES")),
        algorithms=words("ZANTARA_JWT_ALGORITHMS", DEFAULT_ALGORITHMS),
        issuer=getattr(settings, "ZANTARA_JWT_ISSUER", None) or DEFAULT_ISSUER,
        audience=getattr(settings, "ZANTARA_JWT_AUDIENCE", None) or DEFAULT_AUDIENCE,
        ttl_seconds=float(getattr(settings, "ZANTARA_JWT_TTL_SECONDS", DEFAULT_TTL_SECONDS)),
    )


def forget(*, setting: str = "", **_: Any) -> None:
    """Read the settings again at the next question, if ``setting`` is one of ours (or none is named)."""
    if not setting or setting.startswith("ZANTARA_"):
        proxy_settings.cache_clear()
        token_settings.cache_clear()


setting_changed.connect(forget, dispatch_uid="controlplane.identity.config")
