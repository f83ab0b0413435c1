"""What each layer adds to a request, in CPU time of the thread that serves it, beside django-prometheus' two."""

from __future__ import annotations

import io
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks.common import bar, redis_server, surroundings, table

#: Rounds in which all contestants take turns, and requests per turn.
ROUNDS, REQUESTS = 40, 150
MOST_ADDED_US, MOST_OF_PEER = 60.0, 0.5
PACKAGES = ("Django", "prometheus_client", "django-prometheus")

MONITORING = "controlplane.monitoring.middleware.MonitoringMiddleware"
IDENTITY = "controlplane.identity.middleware.IdentityMiddleware"
SHEDDING = "ratelimits.shedding.middleware.SheddingMiddleware"
LIMITER = "ratelimits.middleware.RateLimitMiddleware"
PEER = (
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
)

BARE, OURS, PEERS = "the bare view", "+ monitoring", "django-prometheus' two"


def main() -> None:
    """Once counting alone, once into the files that processes share: each in a process of its own."""
    with redis_server() as server:
        print(surroundings(server, PACKAGES))
        sys.stdout.flush()
        for shared in (False, True):
            with tempfile.TemporaryDirectory(prefix="zantara-bench-") as folder:
                environ = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
                environ["ZANTARA_BENCH_REDIS_URL"] = server.urls["unix"]
                if shared:
                    environ["PROMETHEUS_MULTIPROC_DIR"] = folder
                subprocess.run([sys.executable, "-m", "benchmarks.layers"], env=environ, check=True)


def measure() -> None:
    shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
    configure(os.environ["ZANTARA_BENCH_REDIS_URL"])
    contestants = applications()
    took = race(contestants)
    floor = took[BARE]
    table(
        f"CPU of a request, µs, {'many processes' if shared else 'one process'} (median of {ROUNDS} turns)",
        ("", "µs", "over the bare view"),
        [(name, us, f"{us - floor:+.1f}") for name, us in took.items()],
    )
    added, peers = took[OURS] - floor, took[PEERS] - floor
    bar("metrics and performance layer over the bare view", added, MOST_ADDED_US, "µs")
    bar(f"the same, beside what {PEERS} middlewares add ({peers:.1f} µs)", added / peers, MOST_OF_PEER)
    sys.stdout.flush()


def configure(redis_url: str) -> None:
    import django
    from django.conf import settings

    logging.disable()
    settings.configure(
        ROOT_URLCONF="benchmarks.layers_urls",
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="benchmark",
        USE_TZ=True,
        ZANTARA_REDIS_URL=redis_url,
        ZANTARA_LIMITS_SECRET="a secret for the benchmark alone",
        ZANTARA_JWT_SECRET="a secret for the benchmark alone, of fifty characters",
        ZANTARA_LIMITS_TIMEOUT_SECONDS=5,
        LOGGING_CONFIG=None,
    )
    django.setup()
    import redis

    from ratelimits.decision import Policy, PolicySet
    from ratelimits.limiter.publication import publish

    policies = tuple(
        Policy(number, role, role, 10_000_000, 900, "") for number, role in enumerate(("default", "CEO"), start=1)
    )
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        publish(client, PolicySet(1, policies))


def applications() -> dict[str, Callable[[], None]]:
    from controlplane.identity.tokens import issue

    token = issue("alice", "CEO", 3600)
    stacks: dict[str, tuple[tuple[str, ...], str]] = {
        BARE: ((), ""),
        OURS: ((MONITORING,), ""),
        PEERS: (PEER, ""),
    }
    grown: tuple[str, ...] = (MONITORING,)
    for name, layer in (("identity", IDENTITY), ("shedding", SHEDDING), ("limiter", LIMITER)):
        if layer == SHEDDING and not _exists(SHEDDING):
            continue
        grown = (*grown, layer)
        stacks[f"+ monitoring … {name}, no token"] = (grown, "")
        stacks[f"+ monitoring … {name}, with a JWT"] = (grown, token)
    return {name: application(layers, bearer) for name, (layers, bearer) in stacks.items()}


def _exists(dotted: str) -> bool:
    from django.utils.module_loading import import_string

    try:
        import_string(dotted)
    except ImportError:
        return False
    return True


def application(layers: tuple[str, ...], bearer: str) -> Callable[[], None]:
    """One request through Django's WSGI handler with these middlewares."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    with override_settings(MIDDLEWARE=list(layers)):
        handler = WSGIHandler()
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/bare", "SERVER_NAME": "x", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "REMOTE_ADDR": "192.0.2.1",
        "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
    }  # fmt: skip
    if bearer:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {bearer}"

    def start_response(status: str, headers: object) -> None:
        if status != "200 OK":
            raise RuntimeError(f"the benchmark measured something else: {status}")

    def ask() -> None:
        response = handler(dict(environ), start_response)
        b"".join(response)
        response.close()

    return ask


def race(contestants: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median µs of CPU of this thread per request, the contestants taking turns in an order that rotates."""
    for ask in contestants.values():
        for _ in range(300):
            ask()
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            ask = contestants[name]
            began = time.thread_time()
            for _ in range(REQUESTS):
                ask()
            spent[name].append((time.thread_time() - began) / REQUESTS * 1e6)
    return {name: statistics.median(values) for name, values in spent.items()}


if __name__ == "__main__":
    measure()
