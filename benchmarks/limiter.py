"""One limiter decision against its peers, side by side on one Redis in one run."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import django
import redis
import structlog
from django.conf import settings

from benchmarks.common import Call, Server, Times, bar, race, redis_server, surroundings, table

#: Never reached: every decision is a yes, the dearer answer of the two for most contestants.
LIMIT, WINDOW_SECONDS = 1_000_000, 900
ROUNDS, CALLS = 24, 125
PACKAGES = ("redis", "hiredis", "Django", "django-ratelimit", "limits", "django-smart-ratelimit")
PING, OURS, GET_USAGE = "redis-py PING", "ours, one policy", "django-ratelimit get_usage"


def main() -> None:
    logging.disable()  # the losses below are meant
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with redis_server() as server:
        configure(server)
        print(surroundings(server, PACKAGES))
        times = {kind: latency(server, kind) for kind in ("unix", "tcp")}
        cost = server_cost(server)
        throughput(server)
        away()
        verdict(times, cost)


def configure(server: Server) -> None:
    """A Django project of the benchmark alone, its cache on the benchmark's Redis."""
    backend = "django.core.cache.backends.redis.RedisCache"
    settings.configure(
        CACHES={
            kind: {"BACKEND": backend, "LOCATION": url}
            for kind, url in (server.urls | {"default": server.urls["unix"]}).items()
        },
        SECRET_KEY="benchmark",
        RATELIMIT_ALGORITHM="fixed_window",
        RATELIMIT_BACKEND="redis",
        USE_TZ=True,
    )
    django.setup()


# --- contestants ---------------------------------------------------------------------------------


def our_limiter(url: str, timeout_seconds: float = 20.0) -> Any:
    from ratelimits.config import LimitsConfig
    from ratelimits.limiter import Limiter

    return Limiter(LimitsConfig(url, b"a secret for the benchmark alone", (), timeout_seconds, 2, ()))


def publish_ours(url: str) -> None:
    """Three roles: with one policy, with a burst pair, with a shadow beside it."""
    from ratelimits.decision import Policy, PolicySet
    from ratelimits.limiter.publication import publish

    def policy(number: int, role: str, **more: Any) -> Policy:
        return Policy(number, role, role, LIMIT, WINDOW_SECONDS, "", fail_mode="closed", **more)

    policies = (
        policy(1, "one"),
        policy(2, "burst", burst_requests=LIMIT, burst_window_seconds=10),
        policy(3, "shadowed"),
        policy(4, "shadowed", enforced=False),
        Policy(5, "small", "small", 1, WINDOW_SECONDS, "", fail_mode="closed"),
    )
    with redis.Redis.from_url(url) as client:
        if publish(client, PolicySet(1, policies)).status != "in_force":
            raise RuntimeError("the policy set was not published")


def our_calls(url: str) -> dict[str, Call]:
    from ratelimits.limiter import Asker

    limiter = our_limiter(url)

    def calls(role: str, allowed: bool = True) -> Call:
        asker = Asker(role, "alice", "192.0.2.1", "/zantara.unified")

        def decide() -> None:
            decision = limiter.decide(asker)
            if decision.allowed is not allowed or decision.source != "store":
                raise RuntimeError(f"the benchmark measured something else: {decision.source}")

        return decide

    numbers = itertools.count()

    def strangers() -> None:
        limiter.decide(Asker("one", f"stranger {next(numbers)}", "192.0.2.1", "/zantara.unified"))

    limiter.decide(Asker("small", "alice", "192.0.2.1", "/"))
    return {
        OURS: calls("one"),
        "ours, with a burst pair": calls("burst"),
        "ours, with a shadow": calls("shadowed"),
        "ours, denied": calls("small", allowed=False),
        "ours, an unknown caller each time": strangers,
    }


def peer_calls(server: Server, kind: str) -> dict[str, Call]:
    from django.test import RequestFactory
    from django_ratelimit.core import get_usage
    from limits import RateLimitItemPerSecond
    from limits.storage import RedisStorage
    from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1")
    settings.RATELIMIT_USE_CACHE = kind
    calls: dict[str, Call] = {
        GET_USAGE: lambda: get_usage(request, group="g", key="ip", rate=f"{LIMIT}/{WINDOW_SECONDS}s", increment=True)
    }
    url = f"redis+unix://{server.socket_path}" if kind == "unix" else server.urls["tcp"]
    storage, item = RedisStorage(url), RateLimitItemPerSecond(LIMIT, WINDOW_SECONDS)
    for name, strategy in {
        "limits, fixed window": FixedWindowRateLimiter(storage),
        "limits, moving window": MovingWindowRateLimiter(storage),
        "limits, sliding counter": SlidingWindowCounterRateLimiter(storage),
    }.items():
        calls[name] = lambda hit=strategy.hit, name=name: hit(item, name)
    return calls | smart_calls(server, kind)


def smart_calls(server: Server, kind: str) -> dict[str, Call]:
    """django-smart-ratelimit's own ways to count, its circuit breaker off: the decorator adds a round trip to them."""
    from django_smart_ratelimit.backends.redis_backend import RedisBackend
    from django_smart_ratelimit.config import reset_settings

    settings.RATELIMIT_REDIS = {"host": "127.0.0.1", "port": server.port}
    reset_settings()
    backend = RedisBackend(enable_circuit_breaker=False, fail_open=False)
    if kind == "unix":  # its settings know no socket; its scripts do not care
        backend.redis = redis.Redis.from_url(server.urls[kind], decode_responses=True)
        for script in ("sliding_window", "fixed_window", "token_bucket"):
            setattr(backend, f"{script}_sha", backend.redis.script_load(getattr(backend, f"{script.upper()}_SCRIPT")))

    def incr(algorithm: str) -> Call:
        def call() -> None:
            backend.algorithm = algorithm
            backend.incr(f"smart-{algorithm}", WINDOW_SECONDS)

        return call

    return {
        "smart-ratelimit, fixed window": incr("fixed_window"),
        "smart-ratelimit, sliding window": incr("sliding_window"),
        "smart-ratelimit, token bucket": lambda: backend.token_bucket_check(
            "smart-token", LIMIT, LIMIT / WINDOW_SECONDS, LIMIT, 1
        ),
    }


# --- measurements --------------------------------------------------------------------------------


def contestants(server: Server, kind: str) -> dict[str, Call]:
    url = server.urls[kind]
    publish_ours(url)
    return {PING: redis.Redis.from_url(url).ping} | our_calls(url) | peer_calls(server, kind)


def latency(server: Server, kind: str) -> dict[str, Times]:
    with redis.Redis.from_url(server.urls["unix"]) as client:
        client.flushall()
    times = race(contestants(server, kind), rounds=ROUNDS, calls=CALLS)
    ping = times[PING].p50
    where = {"unix": "a UNIX socket", "tcp": "loopback TCP"}[kind]
    table(
        f"One decision over {where}, µs ({ROUNDS} rounds of {CALLS} calls each, in turn)",
        ("", "p50", "p99", "× PING"),
        [(name, t.p50, t.percentile(0.99), f"{t.p50 / ping:.2f}") for name, t in times.items()],
    )
    return times


def server_cost(server: Server, hits: int = 1000) -> dict[str, float]:
    """CPU of the server per decision, and what a key weighs after so many hits."""
    rows, cpu_of = [], {}
    with redis.Redis.from_url(server.urls["unix"]) as client:
        for name in contestants(server, "unix"):
            client.flushall()
            call = contestants(server, "unix")[name]
            call()
            before = _cpu_seconds(client)
            for _ in range(hits - 1):
                call()
            cpu_of[name] = (_cpu_seconds(client) - before) / (hits - 1) * 1e6
            weights = {key: client.memory_usage(key, samples=0) or 0 for key in client.scan_iter()}
            mine = [w for key, w in weights.items() if b"zantara-limits}:u" not in key and not key.endswith(b":set")]
            rows.append((name, cpu_of[name], f"{sum(mine):,}", str(len(mine))))
    table(
        f"In the server: CPU per decision, and what one caller's keys weigh after {hits} hits within a second",
        ("", "CPU µs", "bytes", "keys"),
        rows,
    )
    _full_ring(server)
    return cpu_of


def _cpu_seconds(client: redis.Redis) -> float:
    info: dict[str, float] = client.info("cpu")
    return info["used_cpu_user"] + info["used_cpu_sys"]


def _full_ring(server: Server) -> None:
    """The same 1000 hits spread over the whole window, as the script would leave them: every sub-bucket in use."""
    with redis.Redis.from_url(server.urls["unix"]) as client:
        ring = {str(slot): 1000 // 60 for slot in range(61)}
        client.hset("full", mapping={**ring, "i": 118_000_000, "w": 15_000_000, "t": 1000, "o": 117_999_940})
        print(f"  ours with 1000 hits spread over the whole window: {client.memory_usage('full', samples=0)} bytes")


def throughput(server: Server, seconds: float = 2.0, threads: int = 8) -> None:
    from ratelimits.limiter import Asker

    url = server.urls["unix"]
    publish_ours(url)
    limiter = our_limiter(url)
    counts, until = [0] * threads, time.monotonic() + seconds

    def work(number: int) -> None:
        asker = Asker("one", "alice", f"192.0.2.{number}", "/")
        while time.monotonic() < until:
            counts[number] += limiter.decide(asker).source == "store"

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    per_second, alone = asyncio.run(_async_figures(limiter))
    table(
        "Throughput of one process over a UNIX socket, decisions per second",
        ("", "per second"),
        [(f"{threads} threads", sum(counts) / seconds), ("one event loop, 100 at a time", per_second)],
    )
    print(f"  adecide alone: p50 {alone.p50:.1f} µs, p99 {alone.percentile(0.99):.1f} µs")


async def _async_figures(limiter: Any, batches: int = 100, at_once: int = 100) -> tuple[float, Times]:
    from ratelimits.limiter import Asker

    asker, alone = Asker("one", "alice", "192.0.2.77", "/"), Times()
    for _ in range(1000):
        began = time.perf_counter_ns()
        await limiter.adecide(asker)
        alone.samples.append(time.perf_counter_ns() - began)
    began_at, counted = time.perf_counter(), 0
    for _ in range(batches):
        for decision in await asyncio.gather(*(limiter.adecide(asker) for _ in range(at_once))):
            counted += decision.source == "store"
    per_second = counted / (time.perf_counter() - began_at)
    await limiter.aclose()
    return per_second, alone


def away() -> None:
    """The longest single decision with the default time limit, before the breaker opens and after."""
    from tests.ratelimits.limiting import ANYBODY, odd_server

    rows = []
    for name, answer in {"accepts and never answers": None, "answers nonsense": b"+OK\r\n"}.items():
        with odd_server(answer) as server:
            limiter = our_limiter(server.url, 0.045)
            spent = [_milliseconds(lambda limiter=limiter: limiter.decide(ANYBODY)) for _ in range(100)]
            rows.append((f"Redis {name}", max(spent[:3]), max(spent[3:])))
    limiter = our_limiter("unix:///nowhere/redis.sock", 0.045)
    spent = [_milliseconds(lambda: limiter.decide(ANYBODY)) for _ in range(100)]
    rows.append(("Redis is not there", max(spent[:3]), max(spent[3:])))
    table(
        "Without its store, the longest of 100 decisions in ms",
        ("", "first three", "breaker open"),
        [(n, f"{a:.2f}", f"{b:.3f}") for n, a, b in rows],
    )


def _milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def verdict(times: dict[str, dict[str, Times]], cost: dict[str, float]) -> None:
    print("\nBars")
    for kind, of in times.items():
        ours = of[OURS].p50
        bar(f"{kind}: decide p50 / PING", ours / of[PING].p50, 1.6)
        bar(f"{kind}: decide p50 / get_usage", ours / of[GET_USAGE].p50, 0.25)
        for peer in ("limits", "smart-ratelimit"):
            fastest = min((name for name in of if name.startswith(peer)), key=lambda name: of[name].p50)
            bar(f"{kind}: decide p50 / fastest of {peer} ({fastest.split(', ')[1]})", ours / of[fastest].p50, 1.0)
    cheapest = min(value for name, value in cost.items() if name.startswith("limits"))
    print(f"  Redis CPU per decision: ours {cost[OURS]:.1f} µs, limits' cheapest {cheapest:.1f} µs")
    sys.stdout.flush()
