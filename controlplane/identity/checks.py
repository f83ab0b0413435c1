"""System checks of identity: what is set so that it cannot work, or works for the wrong people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps.config import AppConfig
from django.core.checks import CheckMessage, register

from controlplane.kernel.checks import check_error, check_warning, docs_url
from controlplane.kernel.errors import ConfigurationError

from .config import TokenSettings, proxy_settings, token_settings
from .keys import HMAC_ALGORITHMS, KNOWN_ALGORITHMS, LEAST_SECRET_BYTES, VerifyingKey, read_public_key, shared_secret

_PROXIES = docs_url("identity", "whose-word-is-believed")
_TOKENS = docs_url("identity", "settings-for-tokens")
_KEYS = docs_url("identity", "public-keys-and-rotation")


@register("zantara")
def check_proxies(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Trusted proxies that are no networks, or that are everybody."""
    try:
        trust = proxy_settings()
    except ConfigurationError as error:
        yield check_error("zantara.E201", error.message, error.remedy, _PROXIES)
        return
    if any(network.prefixlen == 0 for network in trust.networks):
        yield check_warning(
            "zantara.W202",
            "ZANTARA_TRUSTED_PROXIES trusts every address: each caller can choose his own address.",
            "List only the addresses of your own proxies.",
            _PROXIES,
        )


@register("zantara")
def check_tokens(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Keys that cannot be read, algorithms that nobody knows, a secret that can be guessed."""
    try:
        config = token_settings()
    except ConfigurationError as error:
        yield check_error("zantara.E202", error.message, error.remedy, _TOKENS)
        return
    for name in config.algorithms:
        if name not in KNOWN_ALGORITHMS:
            yield check_error(
                "zantara.E203",
                f"ZANTARA_JWT_ALGORITHMS names {name!r}, which is no signature that is accepted here.",
                f"Choose from {', '.join(sorted(KNOWN_ALGORITHMS))}.",
                _TOKENS,
            )
    keys: list[VerifyingKey] = []
    yield from _read_secret(config, keys)
    yield from _read_public_keys(config, keys)
    for key in keys:
        if not key.algorithms & set(config.algorithms):
            which = f"the key {key.name!r}" if key.name else "the JWT secret"
            yield check_warning(
                "zantara.W203",
                f"ZANTARA_JWT_ALGORITHMS allows no algorithm that fits {which}: nothing that it signs is accepted.",
                f"Add one of {', '.join(sorted(key.algorithms))} to ZANTARA_JWT_ALGORITHMS.",
                _TOKENS,
            )
    if not keys:
        yield check_warning(
            "zantara.W204",
            "There is no key to verify bearer tokens with: every token will be refused.",
            "Set ZANTARA_JWT_SECRET or ZANTARA_JWT_PUBLIC_KEY_FILES.",
            _TOKENS,
        )


def _read_secret(config: TokenSettings, keys: list[VerifyingKey]) -> Iterator[CheckMessage]:
    try:
        secret = shared_secret(config)
    except ConfigurationError as error:
        yield check_error("zantara.E204", error.message, error.remedy, _TOKENS)
        return
    if secret is None:
        return
    # Where only public keys are allowed, a secret that lies about unused is no finding.
    if HMAC_ALGORITHMS & set(config.algorithms) or not config.public_key_files:
        keys.append(VerifyingKey("", secret, HMAC_ALGORITHMS))
        if len(secret) < LEAST_SECRET_BYTES:
            yield check_warning(
                "zantara.W201",
                f"The JWT secret has only {len(secret)} bytes: whoever sees one token can try to guess it.",
                f"Use at least {LEAST_SECRET_BYTES} random bytes (RFC 7518), for example `openssl rand -base64 32`.",
                _TOKENS,
            )


def _read_public_keys(config: TokenSettings, keys: list[VerifyingKey]) -> Iterator[CheckMessage]:
    for path in config.public_key_files:
        try:
            keys.append(read_public_key(path))
        except ConfigurationError as error:
            yield check_error("zantara.E205", error.message, error.remedy, _KEYS)
