"""Settings of the control plane, all read from the environment through typed readers.

What an operator tunes while the system runs (limits, schedules, thresholds) is not here: those are
rows in the admin, with history.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import environ

from controlplane.console.appearance import unfold_settings
from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.local_secrets import data_dir, secret_file
from controlplane.kernel.logs import logging_config
from controlplane.kernel.redis_urls import broker_url, default_redis_url

env = Env()

BASE_DIR = Path(__file__).resolve().parent.parent
ZANTARA_DATA_DIR = data_dir(env)
DEBUG = env.flag("ZANTARA_DEBUG", False)

# --- secrets ---------------------------------------------------------------------------------
_secret_key = env.secret("ZANTARA_SECRET_KEY", secret_file("secret_key", env))
if not _secret_key:
    raise ConfigurationError(
        "There is no secret key.",
        remedy="Run `manage.py bootstrap` once, or set ZANTARA_SECRET_KEY or ZANTARA_SECRET_KEY_FILE.",
    )
SECRET_KEY: str = _secret_key

# --- identity (controlplane.identity) --------------------------------------------------------
ZANTARA_JWT_SECRET = env.secret("ZANTARA_JWT_SECRET", secret_file("jwt_secret", env))
ZANTARA_JWT_PUBLIC_KEY_FILES = env.items("ZANTARA_JWT_PUBLIC_KEY_FILES")
ZANTARA_JWT_ALGORITHMS = env.items("ZANTARA_JWT_ALGORITHMS", ["HS256"])
ZANTARA_JWT_ISSUER = env.text("ZANTARA_JWT_ISSUER", "zantara")
ZANTARA_JWT_AUDIENCE = env.text("ZANTARA_JWT_AUDIENCE", "zantara")
ZANTARA_JWT_TTL_SECONDS = env.duration("ZANTARA_JWT_TTL_SECONDS", 3600)
ZANTARA_TRUSTED_PROXIES = env.items("ZANTARA_TRUSTED_PROXIES")
ZANTARA_IPV6_PREFIX = env.integer("ZANTARA_IPV6_PREFIX", 64, least=32, most=128)

# --- limits (ratelimits) ---------------------------------------------------------------------
ZANTARA_REDIS_URL = env.url(
    "ZANTARA_REDIS_URL", default_redis_url(ZANTARA_DATA_DIR), schemes=("redis", "rediss", "unix")
)
ZANTARA_LIMITS_SECRET = env.secret("ZANTARA_LIMITS_SECRET", secret_file("limits_secret", env))
ZANTARA_LIMITS_UNLIMITED_PATHS = env.items(
    "ZANTARA_LIMITS_UNLIMITED_PATHS",
    # /auth/token has a limit of its own (docs/limits.md#logging-in); under the anonymous one, whoever used that up
    # could not get the token that lifts him out of it.
    ["/livez", "/readyz", "/health", "/metrics", "/startupz", "/admin/", "/static/", "/auth/token"],
)
ZANTARA_LIMITS_TIMEOUT_SECONDS = env.duration("ZANTARA_LIMITS_TIMEOUT", 0.045)
ZANTARA_LIMITS_PROCESSES = env.integer("ZANTARA_LIMITS_PROCESSES", 2, least=1, most=10_000)
ZANTARA_RATELIMIT_HEADERS = env.items("ZANTARA_RATELIMIT_HEADERS", ["draft-10", "draft-6"])
ZANTARA_LOGIN_RATE = env.text("ZANTARA_LOGIN_RATE", "10/5m")

ZANTARA_THREADS = env.integer("ZANTARA_THREADS", 8, least=1, most=1024)  # of granian, per process

# --- metrics (controlplane.monitoring) -------------------------------------------------------
ZANTARA_METRICS_TOKEN = env.secret("ZANTARA_METRICS_TOKEN")
ZANTARA_METRICS_NETWORKS = env.items("ZANTARA_METRICS_NETWORKS")  # none: this machine only
ZANTARA_SLOW_REQUEST_SECONDS = env.duration("ZANTARA_SLOW_REQUEST_SECONDS", 5)
ZANTARA_LARGE_REQUEST_BYTES = env.size("ZANTARA_LARGE_REQUEST_BYTES", 10 * 10**6)

# --- samples (controlplane.samples) ----------------------------------------------------------
ZANTARA_SERVICES = env.items(
    "ZANTARA_SERVICES",
    [
        f"control-plane=http://127.0.0.1:{env.port('ZANTARA_WEB_PORT', 8000)}",
        f"sample=http://127.0.0.1:{env.port('ZANTARA_EDGE_PORT', 3000)}",
    ],
)

# --- backups ---------------------------------------------------------------------------------
ZANTARA_FIELDS_KEY = env.secret("ZANTARA_FIELDS_KEY", secret_file("fields_key", env))
ZANTARA_CHROMA_URL = env.url("ZANTARA_CHROMA_URL", None, schemes=("http", "https"))

# --- Django ----------------------------------------------------------------------------------
ALLOWED_HOSTS = env.items("ZANTARA_ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.items("ZANTARA_CSRF_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "controlplane.apps.ControlPlaneConfig",
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "unfold.contrib.simple_history",
    "controlplane.console.apps.ConsoleConfig",  # django.contrib.admin with our site
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "simple_history",
    "django_celery_beat",
    "django_prometheus",
    "django_structlog",
    "ratelimits.apps.RateLimitsConfig",
    "controlplane.samples.apps.SamplesConfig",
    "controlplane.notifications.apps.NotificationsConfig",
    "backups.apps.BackupsConfig",
    "deployments.apps.DeploymentsConfig",
    "ninja",  # the files of the API's page, so that it needs no internet
    "controlplane.api.apps.ApiConfig",
]

MIDDLEWARE = [
    "controlplane.monitoring.middleware.MonitoringMiddleware",
    "controlplane.api.bearer.ApiBearerMiddleware",
    "controlplane.identity.middleware.IdentityMiddleware",
    "ratelimits.shedding.middleware.SheddingMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
    "controlplane.api.bearer.ApiCallerMiddleware",
    "ratelimits.middleware.RateLimitMiddleware",
]

ROOT_URLCONF = "controlplane.urls"
WSGI_APPLICATION = "controlplane.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "controlplane" / "console" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


COUNTED_ENGINES = {
    f"django.db.backends.{name}": f"django_prometheus.db.backends.{name}" for name in ("sqlite3", "postgresql", "mysql")
}


def _database(url: str) -> dict[str, Any]:
    """SQLite in WAL with immediate transactions, or whatever server the URL names."""
    config: dict[str, Any] = dict(environ.Env.db_url_config(url))
    if config["ENGINE"] == "django.db.backends.sqlite3":
        config["OPTIONS"] = {
            # A deferred transaction that must upgrade to a write fails at once with "database is locked"
            # however long the timeout; an immediate one queues.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    else:
        config["CONN_MAX_AGE"] = 60
        config["CONN_HEALTH_CHECKS"] = True
    # the same backend, with its queries counted for /metrics
    config["ENGINE"] = COUNTED_ENGINES.get(config["ENGINE"], config["ENGINE"])
    return config


DATABASES = {
    "default": _database(
        env.secret("ZANTARA_DATABASE_URL") or f"sqlite:///{quote(str(ZANTARA_DATA_DIR / 'controlplane.sqlite3'))}"
    )
}

CACHES = {
    "default": {
        "BACKEND": "controlplane.monitoring.cache.RedisCache",
        "LOCATION": ZANTARA_REDIS_URL,
        "KEY_PREFIX": "zantara-cache",
        "OPTIONS": {"socket_timeout": 0.5, "socket_connect_timeout": 0.5},
    }
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"  # where a ?next= that leads elsewhere ends
ZANTARA_HTTPS = env.flag("ZANTARA_HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = ZANTARA_HTTPS
# TLS ends at a proxy: granian itself speaks plain HTTP, and addresses that pages build must begin with https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ZANTARA_HTTPS else None
SECURE_HSTS_SECONDS = int(env.duration("ZANTARA_HSTS", 30 * 86400)) if ZANTARA_HTTPS else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "/static/"
# None: whitenoise serves the files from where the packages keep them; there is no collectstatic step to forget
STATIC_ROOT = None
STATICFILES_DIRS = [BASE_DIR / "controlplane" / "console" / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_MAX_AGE = 3600

# --- Celery ----------------------------------------------------------------------------------
CELERY_BROKER_URL = broker_url(ZANTARA_REDIS_URL or "")
CELERY_TIMEZONE = TIME_ZONE
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
# A task whose worker was killed comes back, and comes back once: a killed child is otherwise acknowledged.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_DEFAULT_QUEUE = "work"
CELERY_TASK_SOFT_TIME_LIMIT = 3000
CELERY_TASK_TIME_LIMIT = 3300
# Redis redelivers what was not acknowledged within this time: it must exceed the longest task.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 3600,
    "socket_keepalive": True,
    # without these a publish on a dead connection waits for ever
    "socket_connect_timeout": 5,
    "socket_timeout": 30,
}
# A task goes on when Redis is away for a moment: whoever gets it again finds it taken by its row's lease.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_BEAT_SCHEDULER = "controlplane.schedules.scheduler:Scheduler"
CELERY_BEAT_SYNC_EVERY = 1  # a beat that is killed must not send again what it sent in the last three minutes
DJANGO_STRUCTLOG_CELERY_ENABLED = True
DJANGO_CELERY_BEAT_TZ_AWARE = True

# --- logs ------------------------------------------------------------------------------------
LOGGING = logging_config(
    form=env.choice("ZANTARA_LOG_FORMAT", "console", ("console", "json")),
    level=env.choice("ZANTARA_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
)
# A refused request is no fault of ours; the address in a forwarded header is the caller's claim; and asking
# for the user loads the session of every request, even of /livez (see controlplane.monitoring.request_log).
DJANGO_STRUCTLOG_STATUS_4XX_LOG_LEVEL = logging.INFO
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
DJANGO_STRUCTLOG_USER_ID_FIELD = ""

UNFOLD = unfold_settings()

# --- libraries -------------------------------------------------------------------------------
SIMPLE_HISTORY_REVERT_DISABLED = False
SILENCED_SYSTEM_CHECKS = [
    "security.W005",  # whether subdomains and browsers' preload lists may be bound: the domain's owner decides
    "security.W021",
    "security.W008",  # the proxy that ends TLS redirects; this server sees plain HTTP behind it and would loop
]

if env.text("ZANTARA_TEST_ROOT"):
    INSTALLED_APPS.append("tests.kernelapp.apps.KernelAppConfig")
PROMETHEUS_EXPORT_MIGRATIONS = False
