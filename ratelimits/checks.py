"""System checks of the limits, ids ``zantara.E1xx`` and ``W1xx``. They need no database and no model of ours,
so they work as well in a foreign project that has only ``ratelimits.guard`` installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.apps.config import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage

from controlplane.kernel.checks import check_error, check_warning
from controlplane.kernel.errors import ConfigurationError

from .config import HEALTH_PATHS, limits_config
from .login_rate import login_rate

LIMITS = "ratelimits.middleware.RateLimitMiddleware"
IDENTITY = "controlplane.identity.middleware.IdentityMiddleware"
SHEDDING = "ratelimits.shedding.middleware.SheddingMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"

#: Not shared by processes, or without an atomic increment: a count in them is no limit.
UNSHARED_CACHES = {
    "django.core.cache.backends.locmem.LocMemCache": "each process has its own",
    "django.core.cache.backends.dummy.DummyCache": "it keeps nothing",
    "django.core.cache.backends.filebased.FileBasedCache": "it cannot count atomically",
    "django.core.cache.backends.db.DatabaseCache": "it cannot count atomically",
}
#: As long as 128 bits in hexadecimal; shorter secrets can be guessed from the keys in Redis.
SHORTEST_SECRET = 32


@checks.register("zantara")
def check_middleware(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """The limiter needs to know who calls before it decides."""
    order = {name: place for place, name in enumerate(settings.MIDDLEWARE)}
    if LIMITS not in order:
        yield check_warning(
            "zantara.W101",
            "RateLimitMiddleware is not in MIDDLEWARE, so nobody is limited.",
            hint=f"Add {LIMITS} after AuthenticationMiddleware, or as the last.",
        )
        return
    if IDENTITY not in order:
        yield check_error(
            "zantara.E101",
            "RateLimitMiddleware is in MIDDLEWARE without IdentityMiddleware: a forged token would count as anonymous.",
            hint=f"Put {IDENTITY} first in MIDDLEWARE.",
        )
    elif order[LIMITS] < order[IDENTITY]:
        yield check_error(
            "zantara.E102",
            "RateLimitMiddleware stands before IdentityMiddleware: it would decide before tokens are verified.",
            hint="Move IdentityMiddleware to the first place in MIDDLEWARE.",
        )
    if order[LIMITS] < order.get(AUTHENTICATION, -1):
        yield check_warning(
            "zantara.W102",
            "RateLimitMiddleware stands before AuthenticationMiddleware: users with a session count as anonymous.",
            hint="Move RateLimitMiddleware behind AuthenticationMiddleware.",
        )


@checks.register("zantara")
def check_store(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """The settings can be read: a Redis, a secret of good length, known dialects of headers."""
    secret = getattr(settings, "ZANTARA_LIMITS_SECRET", None) or getattr(settings, "ZANTARA_LIMITS_SECRET_FILE", None)
    if not getattr(settings, "ZANTARA_REDIS_URL", None):
        yield check_error(
            "zantara.E103",
            "ZANTARA_REDIS_URL is not set: the limiter has nowhere to count.",
            hint="Set it to the Redis that all processes and services share.",
        )
    elif not secret:
        if not apps.is_installed("controlplane"):  # there zantara.E001 says it
            yield check_error(
                "zantara.E104",
                "There is no limits secret: callers' keys could not be hashed.",
                hint="Set ZANTARA_LIMITS_SECRET_FILE to the control plane's file; all services need the same.",
            )
    else:
        try:
            config = limits_config()
        except ConfigurationError as wrong:
            yield check_error(
                "zantara.E105",
                wrong.message,
                hint=wrong.remedy or "Correct it.",
            )
            return
        if len(config.secret) < SHORTEST_SECRET:
            yield check_error(
                "zantara.E106",
                f"The limits secret has {len(config.secret)} characters: callers could be guessed from the keys.",
                hint=f"Use at least {SHORTEST_SECRET} random characters, for example from `openssl rand -hex 32`.",
            )


@checks.register("zantara")
def check_unlimited_paths(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Every unlimited path is a path, is named once, and does not switch the limits off."""
    paths = list(getattr(settings, "ZANTARA_LIMITS_UNLIMITED_PATHS", HEALTH_PATHS))
    for path, times in Counter(paths).items():
        if not path.startswith("/"):
            yield check_error(
                "zantara.E107",
                f"ZANTARA_LIMITS_UNLIMITED_PATHS holds {path!r}, which no request's path begins with.",
                hint="A path begins with a slash.",
            )
        elif path == "/":
            yield check_warning(
                "zantara.W103",
                "ZANTARA_LIMITS_UNLIMITED_PATHS holds “/”: no path at all is limited.",
                hint="Name the paths that need it, for example /livez.",
            )
        if times > 1:
            yield check_warning(
                "zantara.W104",
                f"ZANTARA_LIMITS_UNLIMITED_PATHS holds {path!r} {times} times.",
                hint="Name it once.",
            )


@checks.register("zantara")
def check_login_limit(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """The login's limit (django-ratelimit) has a shared store and a rate that can be read."""
    if not apps.is_installed("ratelimits"):  # a foreign service does not have our login
        return
    name = getattr(settings, "RATELIMIT_USE_CACHE", "default")
    backend = settings.CACHES.get(name, {}).get("BACKEND", "")
    if backend in UNSHARED_CACHES:
        yield check_error(
            "zantara.E108",
            f"The cache “{name}”, in which logins are counted, is {backend.rpartition('.')[2]}: "
            f"{UNSHARED_CACHES[backend]}.",
            hint="Use django.core.cache.backends.redis.RedisCache for it, or name another in RATELIMIT_USE_CACHE.",
        )
    elif not backend:
        yield check_error(
            "zantara.E108",
            f"There is no cache “{name}”, in which logins are to be counted.",
            hint="Name one of CACHES in RATELIMIT_USE_CACHE.",
        )
    try:
        login_rate()
    except ConfigurationError as wrong:
        yield check_error(
            "zantara.E109",
            wrong.message,
            hint=wrong.remedy or "Correct it.",
        )


@checks.register("zantara")
def check_shedding(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Load shedding stands where it saves something and knows who calls; its settings are numbers and paths."""
    order = {name: place for place, name in enumerate(settings.MIDDLEWARE)}
    if SHEDDING not in order:
        return  # to shed nothing is a choice
    if order[SHEDDING] < order.get(IDENTITY, len(order)):
        yield check_error(
            "zantara.E110",
            "SheddingMiddleware does not stand behind IdentityMiddleware: it could not tell whom to serve first.",
            hint=f"Put {IDENTITY} before it.",
        )
    if order[SHEDDING] > min(order.get(LIMITS, len(order)), order.get(AUTHENTICATION, len(order))):
        yield check_warning(
            "zantara.W110",
            "SheddingMiddleware stands behind the limiter or AuthenticationMiddleware: a refusal costs what they cost.",
            hint="Move it directly behind IdentityMiddleware.",
        )
    for name in ("ZANTARA_THREADS", "ZANTARA_ASYNC_REQUESTS"):
        value = getattr(settings, name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield check_error(
                "zantara.E111",
                f"{name} is {value!r}, which is no number of requests.",
                hint="Set the number of threads per process (async: of requests begun at once).",
            )
    for path in getattr(settings, "ZANTARA_SHEDDING_EXEMPT_PATHS", ()):
        if not path.startswith("/") or path == "/":
            yield check_error(
                "zantara.E112",
                f"ZANTARA_SHEDDING_EXEMPT_PATHS holds {path!r}: no path, or every path.",
                hint="Name paths that begin with a slash, for example /livez.",
            )
