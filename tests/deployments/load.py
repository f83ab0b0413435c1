"""Keep-alive load on one port from a process of its own: ``python -m tests.deployments.load <spec as JSON>``.

It sends requests at an even rate over a fixed number of connections until its standard input is closed, and prints
what became of them as JSON: {"sent", "statuses", "failed", "closed", "releases", "longest_ms", "since": first failure}.
A connection that the server closed between two requests is counted in ``closed``, and opened again.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Tally:
    """What became of the requests so far."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    closed: int = 0
    longest_ms: float = 0.0
    #: Seconds of the wall clock at which each answer of 500 and above, or failure, came.
    bad_at: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def to_json(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "failures": self.failures[:20],
            "failed": len(self.failures),
            "closed": self.closed,
            "longest_ms": round(self.longest_ms, 1),
            "bad_at": self.bad_at[:5000],
        }


def _caller(spec: dict[str, Any], number: int, tally: Tally, over: threading.Event) -> None:
    connections = int(spec["connections"])
    interval, tokens = connections / float(spec["rate"]), list(spec.get("tokens") or [])
    due, turn = time.monotonic() + number * interval / connections, 0
    connection: http.client.HTTPConnection | None = None
    while not over.wait(max(0.0, due - time.monotonic())):
        due = max(due + interval, time.monotonic() - 1.0)
        headers = dict(spec.get("headers") or {})
        if tokens:
            headers["Authorization"] = f"Bearer {tokens[(number + turn * connections) % len(tokens)]}"
        turn += 1
        began = time.monotonic()
        status, problem, closed = 0, "", False
        try:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", int(spec["port"]), timeout=20)
                connection.connect()
            connection.request("GET", spec["path"], headers=headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
            closed = answer.will_close
        except (OSError, http.client.HTTPException) as error:
            problem, closed = f"{type(error).__name__}: {error}", True
        if closed and connection is not None:
            connection.close()
            connection = None
        with tally.lock:
            tally.sent += 1
            tally.longest_ms = max(tally.longest_ms, 1000 * (time.monotonic() - began))
            if problem:
                tally.failures.append(problem)
            else:
                tally.statuses[status] += 1
            tally.closed += closed
            if problem or status >= 500:
                tally.bad_at.append(time.time())
    if connection is not None:
        connection.close()


def main() -> None:
    spec = json.loads(sys.argv[1])
    tally, over = Tally(), threading.Event()
    callers = [
        threading.Thread(target=_caller, args=(spec, number, tally, over)) for number in range(int(spec["connections"]))
    ]
    for caller in callers:
        caller.start()
    sys.stdin.read()
    over.set()
    for caller in callers:
        caller.join()
    sys.stdout.write(json.dumps(tally.to_json()) + "\n")


class Load:
    """The generator as a child of a test: a context manager; ``result`` is there after its end."""

    def __init__(self, port: int, path: str, *, rate: float, connections: int = 8, **more: Any) -> None:
        self._spec = {"port": port, "path": path, "rate": rate, "connections": connections, **more}
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.deployments.load", json.dumps(self._spec)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate(timeout=60)
        self.result = json.loads(output)


if __name__ == "__main__":
    main()
