"""Settings of the sample service, all from the environment. It has no database, no sessions and no templates."""

from __future__ import annotations

import re
import secrets

from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.local_secrets import data_dir, secret_file
from controlplane.kernel.logs import logging_config
from controlplane.kernel.redis_urls import default_redis_url

env = Env()

ZANTARA_DATA_DIR = data_dir(env)
DEBUG = False

# Nothing here is signed with it (no sessions, cookies or CSRF tokens), but Django refuses to start without
# one. A value of this process alone cannot leak, and whoever came to rely on it would notice at once.
SECRET_KEY = secrets.token_urlsafe(32)

# --- what this service is --------------------------------------------------------------------
ZANTARA_RELEASE: str = env.text("ZANTARA_RELEASE", "1")
if not re.fullmatch(r"[\w.+-]{1,64}", ZANTARA_RELEASE):
    raise ConfigurationError(
        "ZANTARA_RELEASE is not a release name.", remedy="Use up to 64 letters, digits, dots, dashes or plus signs."
    )
ZANTARA_CHROMA_URL = env.url("ZANTARA_CHROMA_URL", schemes=("http", "https"))

# --- identity (controlplane.identity) --------------------------------------------------------
ZANTARA_JWT_SECRET = env.secret("ZANTARA_JWT_SECRET", secret_file("jwt_secret", env))
ZANTARA_JWT_PUBLIC_KEY_FILES = env.items("ZANTARA_JWT_PUBLIC_KEY_FILES")
ZANTARA_JWT_ALGORITHMS = env.items("ZANTARA_JWT_ALGORITHMS", ["HS256"])
ZANTARA_JWT_ISSUER = env.text("ZANTARA_JWT_ISSUER", "zantara")
ZANTARA_JWT_AUDIENCE = env.text("ZANTARA_JWT_AUDIENCE", "zantara")
ZANTARA_TRUSTED_PROXIES = env.items("ZANTARA_TRUSTED_PROXIES")
ZANTARA_IPV6_PREFIX = env.integer("ZANTARA_IPV6_PREFIX", 64, least=32, most=128)

# --- limits (ratelimits) ---------------------------------------------------------------------
ZANTARA_REDIS_URL = env.url(
    "ZANTARA_REDIS_URL", default_redis_url(ZANTARA_DATA_DIR), schemes=("redis", "rediss", "unix")
)
ZANTARA_LIMITS_SECRET = env.secret("ZANTARA_LIMITS_SECRET", secret_file("limits_secret", env))
# Chaos must be cleared even by a caller who has just used up his limit with it.
ZANTARA_LIMITS_UNLIMITED_PATHS = env.items(
    "ZANTARA_LIMITS_UNLIMITED_PATHS", ["/livez", "/readyz", "/health", "/metrics", "/startupz", "/_chaos"]
)

ZANTARA_THREADS = env.integer("ZANTARA_THREADS", 8, least=1, most=1024)  # of granian, per process
ZANTARA_SERVICE_PORT = env.port("ZANTARA_SERVICE_PORT", 0) or None  # none: where this process listens
ZANTARA_SHEDDING_EXEMPT_PATHS = env.items(
    "ZANTARA_SHEDDING_EXEMPT_PATHS", ["/livez", "/readyz", "/health", "/metrics", "/startupz", "/_chaos"]
)
ZANTARA_LIMITS_TIMEOUT_SECONDS = env.duration("ZANTARA_LIMITS_TIMEOUT", 0.045)
ZANTARA_LIMITS_PROCESSES = env.integer("ZANTARA_LIMITS_PROCESSES", 2, least=1, most=10_000)
ZANTARA_RATELIMIT_HEADERS = env.items("ZANTARA_RATELIMIT_HEADERS", ["draft-10", "draft-6"])

# --- metrics (controlplane.monitoring) -------------------------------------------------------
ZANTARA_METRICS_TOKEN = env.secret("ZANTARA_METRICS_TOKEN")
ZANTARA_METRICS_NETWORKS = env.items("ZANTARA_METRICS_NETWORKS")  # none: this machine only
ZANTARA_SLOW_REQUEST_SECONDS = env.duration("ZANTARA_SLOW_REQUEST_SECONDS", 5)
ZANTARA_LARGE_REQUEST_BYTES = env.size("ZANTARA_LARGE_REQUEST_BYTES", 10 * 10**6)

# --- Django ----------------------------------------------------------------------------------
ALLOWED_HOSTS = env.items("ZANTARA_ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"])
INSTALLED_APPS = ["ratelimits.guard", "examples.zantara.apps.SampleConfig"]
MIDDLEWARE = [
    "controlplane.monitoring.middleware.MonitoringMiddleware",
    # Before all that answers: every answer gets a Content-Length, and a Host that is not ours is refused.
    "django.middleware.common.CommonMiddleware",
    "controlplane.identity.middleware.IdentityMiddleware",
    "ratelimits.shedding.middleware.SheddingMiddleware",
    "ratelimits.middleware.RateLimitMiddleware",
    # Innermost: what it breaks is counted, limited and measured like any other fault of a handler.
    "examples.zantara.chaos.ChaosMiddleware",
]
APPEND_SLASH = False
ROOT_URLCONF = "examples.zantara.urls"
WSGI_APPLICATION = "examples.zantara.wsgi.application"
DATABASES: dict[str, dict[str, object]] = {}
# Handlers read at most this much (views.py answers 413); an import is streamed and never held whole.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2**20
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

LOGGING = logging_config(
    form=env.choice("ZANTARA_LOG_FORMAT", "console", ("console", "json")),
    level=env.choice("ZANTARA_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
)
