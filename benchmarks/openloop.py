"""An open-loop load generator: requests begin when they are due, whether or not earlier ones were answered.

A closed loop (``ab``, ``wrk``) slows down with the server and so never overloads it. A connection per request, as
callers from many places would have, on plain sockets: the generator shares the machine with what it measures, and
every microsecond of its own is one that the server lacks.
"""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections import Counter, deque
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
    """Send ``rate`` requests per second, at random moments (Poisson), to 127.0.0.1, and wait for the last answer."""
    dice, outcome = random.Random(seed), Outcome(seconds)
    weights = [kind.share for kind in kinds]
    with selectors.DefaultSelector() as selector:
        flight = _Flight(port, selector, outcome, timeout_seconds)
        began = due = time.monotonic()
        while due < began + seconds:
            pause = due - time.monotonic()
            if pause > 0:
                flight.listen(pause)
                continue
            outcome.late_seconds = max(outcome.late_seconds, -pause)
            flight.send(dice.choices(kinds, weights)[0], due - began)
            due += dice.expovariate(rate)
        while flight.open:
            flight.listen(timeout_seconds)
    return outcome


@dataclass(eq=False, slots=True)
class _Asked:
    """One request under way: ``at`` seconds after the run began, ``began`` by the monotonic clock."""

    kind: Kind
    at: float
    began: float
    connection: socket.socket
    answer: bytes = b""
    over: bool = False


class _Flight:
    """The requests under way. They all time out alike, so that the oldest is always the first to."""

    def __init__(self, port: int, selector: selectors.BaseSelector, outcome: Outcome, timeout_seconds: float) -> None:
        self._address, self._selector, self._outcome = ("127.0.0.1", port), selector, outcome
        self._timeout_seconds = timeout_seconds
        self._asked: deque[_Asked] = deque()
        self.open = 0

    def send(self, kind: Kind, at: float) -> None:
        asked = _Asked(kind, at, time.monotonic(), socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        self._outcome.sent[kind.name] += 1
        self._asked.append(asked)
        self.open += 1
        asked.connection.setblocking(False)
        asked.connection.connect_ex(self._address)  # in progress, as a rule: the answer is the first write
        self._selector.register(asked.connection, selectors.EVENT_WRITE, asked)

    def listen(self, seconds: float) -> None:
        """Until something happens, and no longer than so; what has come is read, what has waited too long given up."""
        now = time.monotonic()
        while self._asked and (self._asked[0].over or now - self._asked[0].began >= self._timeout_seconds):
            self._end(self._asked.popleft(), 0)
        if self._asked:
            seconds = min(seconds, self._asked[0].began + self._timeout_seconds - now)
        for key, events in self._selector.select(seconds):
            asked: _Asked = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    asked.connection.sendall(asked.kind.request)
                    self._selector.modify(asked.connection, selectors.EVENT_READ, asked)
                else:
                    self._read(asked)
            except OSError:
                self._end(asked, 0)

    def _read(self, asked: _Asked) -> None:
        part = asked.connection.recv(65536)
        asked.answer += part
        if not part:
            words = asked.answer[:16].split()
            self._end(asked, int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") else 0)

    def _end(self, asked: _Asked, status: int) -> None:
        """Status 0: no answer in time, or none at all."""
        if asked.over:
            return
        asked.over = True
        self.open -= 1
        self._selector.unregister(asked.connection)
        asked.connection.close()
        outcome, name = self._outcome, asked.kind.name
        outcome.times.append((asked.at, name, status, time.monotonic() - asked.began))
        counter = outcome.good if status == 200 else outcome.shed if status == 503 else outcome.failed
        counter[name] += 1
