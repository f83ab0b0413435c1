"""What the tests of the edge need: a real Envoy, real instances in processes of their own, load from another."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.edge import current_edge, envoy_program
from deployments.edge.base import Endpoint, ReleaseShare, Route, RouteSeen
from deployments.edge.envoy import EnvoyEdge
from tests import needs

HERE = Path(__file__).parent
SECONDS = 20.0


def until(what: str, is_so: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """Ask again and again; the first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return answer


def _is_done(route: Route, seen: RouteSeen) -> bool:
    for share in route.releases:
        points = seen.endpoints.get(share.release, ())
        if {point.name for point in points} != {point.name for point in share.endpoints}:
            return False
        if share.permille and not any(point.healthy for point in points):
            return False
    return seen.generation == route.generation


class Instance:
    """A server of ``upstream.py``."""

    def __init__(self, release: str, name: str, port: int = 0) -> None:
        self.release, self.name = release, name
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "upstream.py"), release, name, str(port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def endpoint(self, *, draining: bool = False) -> Endpoint:
        return Endpoint(self.name, "127.0.0.1", self.port, draining)

    def ask(self, path: str) -> int:
        """Straight to it, not through the edge."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def release(self) -> str:
        return self.headers.get("x-release", "none")

    @property
    def instance(self) -> str:
        return self.headers.get("x-instance", "none")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookie(self) -> str | None:
        text = self.headers.get("set-cookie")
        return text.split(";")[0] if text else None


class Client:
    """A caller with one connection that he keeps."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)

    def get(self, path: str = "/", *, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("__", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body=body, headers=named)
        answer = self._connection.getresponse()
        content = answer.read()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def releases(self, times: int, path: str = "/", **headers: Any) -> Counter[str]:
        """Who answered so many requests."""
        return Counter(self.get(path, **headers).release for _ in range(times))

    def close(self) -> None:
        self._connection.close()


class Load:
    """``load.py`` in a process of its own."""

    def __init__(self, port: int, clients: int = 8, path: str = "/") -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "load.py"), str(port), str(clients), path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "running\n"

    def end(self) -> dict[str, Any]:
        """Stop it; what it saw."""
        out, _ = self._process.communicate("", timeout=60)
        result: dict[str, Any] = json.loads(out)
        return result

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@dataclass
class World:
    """One Envoy with its directory, and the instances behind it; all of it is gone after the test."""

    folder: Path
    free_port: Callable[[], int]
    environ: Mapping[str, str] = field(default_factory=dict)
    _open: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "run").mkdir(parents=True, exist_ok=True)
        self.edge: EnvoyEdge = current_edge({"ZANTARA_DATA_DIR": str(self.folder), **self.environ})
        self.port = self.free_port()
        self.log = self.folder / "envoy.log"
        self._generation = 0
        self._envoy: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start Envoy, and wait until it is ready."""
        program = envoy_program() or needs.command("envoy", package="envoy")
        self.edge.prepare()
        with self.log.open("ab") as log:
            self._envoy = subprocess.Popen(
                [str(program), "--config-path", str(self.edge.settings.folder / "bootstrap.json"), "--concurrency", "2",
                 "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "10"],
                stdout=log, stderr=log,
            )  # fmt: skip
        until("Envoy is ready", self.edge.admin.is_ready)

    def stop(self, number: int = signal.SIGKILL) -> None:
        assert self._envoy is not None
        self._envoy.send_signal(number)
        self._envoy.wait(20)

    def instance(self, release: str, port: int = 0) -> Instance:
        instance = Instance(release, f"{release}-{len(self._open)}", port)
        self._open.append(instance)
        return instance

    def client(self, port: int | None = None) -> Client:
        client = Client(port or self.port)
        self._open.append(client)
        return client

    def load(self, clients: int = 8, path: str = "/") -> Load:
        load = Load(self.port, clients, path)
        self._open.append(load)
        return load

    def route(self, shares: Mapping[str, tuple[int, list[Endpoint]]], **other: Any) -> Route:
        """Of the service ``web``; the first release named is the stable one, unless ``stable`` says otherwise."""
        self._generation += 1
        releases = tuple(ReleaseShare(name, permille, tuple(points)) for name, (permille, points) in shares.items())
        given = {"service": "web", "port": self.port, "stable": next(iter(shares), ""), "generation": self._generation}
        return Route(releases=releases, **{**given, **other})

    def apply(self, *routes: Route) -> None:
        """Until all of it is in force: every generation, exactly these instances, and one healthy for each share."""

        def in_force() -> bool:
            self.edge.apply(routes)
            seen = self.edge.read_back()
            return all(route.service in seen and _is_done(route, seen[route.service]) for route in routes)

        until("the desired state is in force", in_force)

    def split(self, shares: Mapping[str, tuple[int, list[Instance]]], **other: Any) -> Route:
        """``apply`` of one route with these instances; returns it."""
        points = {name: (permille, [one.endpoint() for one in some]) for name, (permille, some) in shares.items()}
        route = self.route(points, **other)
        self.apply(route)
        return route

    def healthy(self, service: str = "web") -> dict[str, int]:
        """Release -> instances that the edge finds healthy."""
        return {
            release: sum(point.healthy for point in points)
            for release, points in self.edge.read_back()[service].endpoints.items()
        }

    def close(self) -> None:
        for thing in reversed(self._open):
            thing.close()
        if self._envoy is not None and self._envoy.poll() is None:
            self._envoy.kill()
            self._envoy.wait()
