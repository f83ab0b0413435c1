"""An open-loop load generator: requests begin when they are due, whether or not earlier ones were answered.

A closed loop (``ab``, ``wrk``) slows down with the server and so never overloads it. One thread per core is
enough: raw sockets and an event loop, a connection per request, as callers from many places would have.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """One sort of caller: its share of the requests and the bytes that it sends."""

    name: str
    share: float
    request: bytes


@dataclass
class Outcome:
    """What became of the requests of one run; ``seconds`` is how long they were sent."""

    seconds: float
    sent: Counter[str] = field(default_factory=Counter)
    good: Counter[str] = field(default_factory=Counter)
    shed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    times: list[tuple[float, str, int, float]] = field(default_factory=list)
    late_seconds: float = 0.0

    @property
    def goodput(self) -> float:
        return self.good.total() / self.seconds

    def success(self, kind: str) -> float:
        return self.good[kind] / max(1, self.sent[kind])

    @property
    def shed_share(self) -> float:
        return self.shed.total() / max(1, self.sent.total())

    def percentile(self, share: float) -> float:
        ordered = sorted(took for _, _, status, took in self.times if status == 200)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def http_get(path: str, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def drive(
    port: int, kinds: Sequence[Kind], rate: float, seconds: float, *, timeout_seconds: float = 1.0, seed: int = 1
) -> Outcome:
    """Send ``rate`` requests per second, at random moments (Poisson), to 127.0.0.1."""
    return asyncio.run(_drive(port, kinds, rate, seconds, timeout_seconds, random.Random(seed)))


async def _drive(
    port: int, kinds: Sequence[Kind], rate: float, seconds: float, timeout_seconds: float, dice: random.Random
) -> Outcome:
    loop = asyncio.get_running_loop()
    outcome, tasks = Outcome(seconds), set()
    began = due = loop.time()
    weights = [kind.share for kind in kinds]
    while due < began + seconds:
        pause = due - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        else:
            outcome.late_seconds = max(outcome.late_seconds, -pause)
        kind = dice.choices(kinds, weights)[0]
        task = loop.create_task(_one(port, kind, timeout_seconds, outcome, due - began))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += dice.expovariate(rate)
    if tasks:
        await asyncio.wait(tasks)
    return outcome


async def _one(port: int, kind: Kind, timeout_seconds: float, outcome: Outcome, at: float) -> None:
    loop = asyncio.get_running_loop()
    outcome.sent[kind.name] += 1
    began, status = loop.time(), 0
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(kind.request)
                head = await reader.readline()
                status = int(head.split()[1]) if head.startswith(b"HTTP/") else 0
                await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, IndexError):
        status = 0
    outcome.times.append((at, kind.name, status, loop.time() - began))
    counter = outcome.good if status == 200 else outcome.shed if status == 503 else outcome.failed
    counter[kind.name] += 1
