"""Processes that decide, for tests with several of them: ``python -m tests.ratelimits.worker <JSON>``.

They know neither the control plane nor a database. ``ready`` is said when all of them wait; a line starts them;
the answer is one line of JSON, a list with one entry per process.

    {"url": …, "processes": 8, "threads": 100, "calls": 1}       each thread decides so often
    {"url": …, "processes": 8, "threads": 2, "pause": 0.001}     each decides, with pauses, until a second line
                                                                 comes; each decision with the time at which it
                                                                 began (monotonic, the same in all processes)
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import time
from typing import Any

import structlog
from structlog.testing import LogCapture

from ratelimits.limiter import Limiter
from tests.ratelimits.limiting import ANYBODY, config

#: Forked before there is any thread: they share the imports, which are most of what a start costs.
CONTEXT: Any = multiprocessing.get_context("fork")


def decide(order: dict[str, Any], ready: Any, start: Any, stop: Any, results: Any) -> None:
    events = LogCapture()
    structlog.configure(processors=[events])
    limiter = Limiter(config(order["url"]))
    decisions: list[tuple[float, int, bool, str]] = []
    go = threading.Event()

    def call() -> None:
        go.wait()
        left = order.get("calls", 0)
        while left > 0 or ("pause" in order and not stop.is_set()):
            left -= 1
            began = time.monotonic()
            decision = limiter.decide(ANYBODY)
            decisions.append((began, decision.version, decision.allowed, decision.source))
            if "pause" in order:
                time.sleep(order["pause"])

    threads = [threading.Thread(target=call) for _ in range(order["threads"])]
    for thread in threads:
        thread.start()
    ready.wait()
    start.wait()
    go.set()
    for thread in threads:
        thread.join()
    results.put({"decisions": decisions, "breaker": limiter.breaker_state, "events": events.entries})


def main(order: dict[str, Any]) -> None:
    count = order["processes"]
    ready, start, stop, results = CONTEXT.Barrier(count + 1), CONTEXT.Event(), CONTEXT.Event(), CONTEXT.SimpleQueue()
    processes = [
        CONTEXT.Process(target=decide, args=(order, ready, start, stop, results), daemon=True) for _ in range(count)
    ]
    for process in processes:
        process.start()
    ready.wait()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    start.set()
    if "pause" in order:
        sys.stdin.readline()
        stop.set()
    sys.stdout.write(json.dumps([results.get() for _ in processes]) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
