"""What the benchmarks share: a Redis of their own, fair turns for all contestants, tables."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import redis

from controlplane.kernel.redis_server import find_server

Call = Callable[[], object]


@dataclass(frozen=True)
class Server:
    """One Redis on a UNIX socket and on loopback TCP at once."""

    socket_path: Path
    port: int

    @property
    def urls(self) -> dict[str, str]:
        return {"unix": f"unix://{self.socket_path}?db=0", "tcp": f"redis://127.0.0.1:{self.port}/0"}


@contextlib.contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis without persistence in a temporary folder, gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="zantara-bench-") as folder:
        server = Server(Path(folder) / "redis.sock", port)
        process = subprocess.Popen(
            [str(find_server()), "--bind", "127.0.0.1", "--port", str(port), "--unixsocket", str(server.socket_path),
             "--save", "", "--appendonly", "no", "--dir", folder, "--loglevel", "warning"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for(server, process)
            yield server
        finally:
            process.kill()
            process.wait()


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    with redis.Redis.from_url(server.urls["unix"]) as client:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the benchmark's Redis did not start") from None
                time.sleep(0.02)


@dataclass
class Times:
    """Durations of one contestant, in nanoseconds."""

    samples: list[int] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """In microseconds."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1000

    @property
    def p50(self) -> float:
        return statistics.median(self.samples) / 1000


def race(contestants: Mapping[str, Call], *, rounds: int, calls: int, warm_up: int = 200) -> dict[str, Times]:
    """Time each call alone, the contestants taking turns in an order that rotates: drift favours nobody."""
    for call in contestants.values():
        for _ in range(warm_up):
            call()
    times = {name: Times() for name in contestants}
    names = list(contestants)
    clock = time.perf_counter_ns
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            call, samples = contestants[name], times[name].samples
            for _ in range(calls):
                began = clock()
                call()
                samples.append(clock() - began)
    return times


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    texts = [[cell if isinstance(cell, str) else f"{cell:,.1f}" for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [list(heads), *texts]) for n in range(len(heads))]
    print(f"\n{title}")
    for row in [list(heads), ["-" * width for width in widths], *texts]:
        print(
            "  "
            + "  ".join(c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        )


def bar(text: str, figure: float, most: float, unit: str = "×") -> bool:
    """Say whether a bar is met; the figure decides nothing but the word."""
    met = figure <= most
    print(f"  {'met   ' if met else 'missed'}  {text}: {figure:.2f} {unit} (at most {most:.2f})")
    return met


def surroundings(server: Server, packages: Sequence[str]) -> str:
    with redis.Redis.from_url(server.urls["unix"]) as client:
        info = client.info("server")
    name = "Valkey " + info["valkey_version"] if "valkey_version" in info else "Redis " + info["redis_version"]
    return ", ".join([f"Python {platform.python_version()}", name, *(f"{p} {version(p)}" for p in packages)])


def django_here(data: Path) -> None:
    """Django with the control plane's settings and keys in a data directory of its own."""
    import django

    os.environ["ZANTARA_DATA_DIR"] = str(data)
    os.environ["ZANTARA_LOG_LEVEL"] = "WARNING"
    os.environ["DJANGO_SETTINGS_MODULE"] = "controlplane.settings"
    from controlplane.kernel.local_secrets import ensure_local_secrets

    ensure_local_secrets()
    django.setup()
    from backups.keys import ensure_keys

    ensure_keys()
