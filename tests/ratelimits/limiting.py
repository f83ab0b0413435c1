"""What the limiter's tests share: policies in one line, a limiter on a given Redis, servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import redis

from ratelimits.config import LimitsConfig
from ratelimits.decision import Policy, PolicySet
from ratelimits.limiter import Asker, Decision, Limiter, keys
from ratelimits.limiter.publication import Publication, publish

SECRET = b"a secret of these tests, 32 bytes"
ANYBODY = Asker("default", "", "192.0.2.7", "/zantara.unified")


def config(url: str, **changes: Any) -> LimitsConfig:
    """As a service would have it, but patient: a busy machine must not look like a store that is away."""
    values: dict[str, Any] = {
        "redis_url": url,
        "secret": SECRET,
        "unlimited_paths": ("/livez",),
        "timeout_seconds": 20.0,
        "processes": 2,
        "dialects": ("draft-10", "draft-6"),
    }
    return LimitsConfig(**values | changes)


def policy(requests: int | None = 5, seconds: int = 60, /, **changes: Any) -> Policy:
    values: dict[str, Any] = {
        "id": 1,
        "name": "default",
        "role": "default",
        "requests": requests,
        "window_seconds": seconds,
        "message": "Slow down",
        "fail_mode": "closed",
    }
    return Policy(**values | changes)


def put(client: redis.Redis, version: int, *policies: Policy) -> Publication:
    return publish(client, PolicySet(version, policies))


def counted(limiter: Limiter, times: int, asker: Asker = ANYBODY) -> int:
    """Decide so often; how many were let through. Every one of them was counted in the store."""
    decisions = [limiter.decide(asker) for _ in range(times)]
    assert {decision.source for decision in decisions} <= {"store"}
    return sum(decision.allowed for decision in decisions)


def counters(client: redis.Redis) -> dict[bytes, dict[bytes, bytes]]:
    """All counters as they lie in Redis."""
    return {key: client.hgetall(key) for key in client.keys(f"{keys.TAG}:c:*")}


def answered_by_fail_mode(decision: Decision) -> bool:
    return decision.source in ("open", "closed", "local")


class OddServer:
    """Accepts connections and reads; says nothing, or always the same. Counts what it was sent."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer, self.requests, self.connections = answer, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(peer)
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while peer.recv(65536):
                self.requests += 1
                if self.answer is not None:
                    peer.sendall(self.answer)

    def close(self) -> None:
        # a thread that sits in accept() keeps the socket listening: wake it first
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._open:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()


@contextlib.contextmanager
def odd_server(answer: bytes | None) -> Iterator[OddServer]:
    server = OddServer(answer)
    try:
        yield server
    finally:
        server.close()
