"""The limiter's settings, read once from Django's settings of whatever project it guards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from controlplane.kernel.errors import ConfigurationError

#: Never limited: who asks whether a service lives must always hear.
HEALTH_PATHS = ("/livez", "/readyz", "/health", "/metrics", "/startupz")
DIALECTS = ("draft-10", "draft-6", "legacy")


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """``timeout_seconds`` bounds one whole decision, connecting included; ``processes`` is how many
    share a limit while each must enforce its part alone."""

    redis_url: str
    secret: bytes
    unlimited_paths: tuple[str, ...]
    timeout_seconds: float
    processes: int
    dialects: tuple[str, ...]

    def is_unlimited(self, path: str) -> bool:
        return any(path == p or path.startswith(p if p.endswith("/") else p + "/") for p in self.unlimited_paths)

    def derived_key(self, purpose: str) -> bytes:
        """32 bytes for one purpose: keys of callers and signatures of decision ids never share one."""
        return hashlib.blake2b(self.secret, digest_size=32, person=purpose.encode()[:16]).digest()


@lru_cache(maxsize=1)
def limits_config() -> LimitsConfig:
    """The configuration of this process; ConfigurationError says what is missing."""
    url = getattr(settings, "ZANTARA_REDIS_URL", None)
    if not url:
        raise ConfigurationError("ZANTARA_REDIS_URL is not set.", remedy="Set it to the Redis that all services share.")
    dialects = tuple(getattr(settings, "ZANTARA_RATELIMIT_HEADERS", ("draft-10", "draft-6")))
    unknown = set(dialects) - set(DIALECTS)
    if unknown:
        raise ConfigurationError(
            f"ZANTARA_RATELIMIT_HEADERS holds {', '.join(sorted(unknown))}.", remedy=f"Known: {', '.join(DIALECTS)}."
        )
    return LimitsConfig(
        redis_url=str(url),
        secret=_secret(),
        unlimited_paths=tuple(getattr(settings, "ZANTARA_LIMITS_UNLIMITED_PATHS", HEALTH_PATHS)),
        timeout_seconds=float(getattr(settings, "ZANTARA_LIMITS_TIMEOUT_SECONDS", 0.045)),
        processes=max(1, int(getattr(settings, "ZANTARA_LIMITS_PROCESSES", 2))),
        dialects=dialects,
    )


def _secret() -> bytes:
    value: Any = getattr(settings, "ZANTARA_LIMITS_SECRET", None)
    file: Any = getattr(settings, "ZANTARA_LIMITS_SECRET_FILE", None)
    if not value and file:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(
                f"ZANTARA_LIMITS_SECRET_FILE names {file}, which cannot be read ({error.strerror}).",
                remedy="Make it readable for this process.",
            ) from None
    if not value:
        raise ConfigurationError(
            "There is no limits secret.",
            remedy="Set ZANTARA_LIMITS_SECRET_FILE to the file that the control plane keeps in <data>/secrets.",
        )
    return str(value).encode()


_on_reset: list[Callable[[], None]] = [limits_config.cache_clear]


def on_settings_change(forget: Callable[[], None]) -> Callable[[], None]:
    """Let a module drop what it made from the settings when a test changes them."""
    _on_reset.append(forget)
    return forget


def _forget(*, setting: str, **_: Any) -> None:
    if setting.startswith("ZANTARA_"):
        for forget in _on_reset:
            forget()


setting_changed.connect(_forget, dispatch_uid="ratelimits.config")
