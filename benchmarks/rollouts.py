"""Real rollouts on the real stack: how soon a bad release is back at no traffic, and that a good one goes through.

The stack of ``manage.py up`` with Envoy and three instances; 50 requests a second on keep-alive connections from a
process of their own. Times are read from the rows and from the answers that callers got. The numbers of runs are
``ZANTARA_BENCH_REAL_ROLLOUTS`` (default 7 bad, 3 dead, 10 good).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deployments.on_stack import OnStack
from tests.stack import Stack

RATE = 50
OVER = ("succeeded", "rolled_back", "failed", "aborted", "rollback_blocked", "paused")


@dataclass(frozen=True)
class Told:
    """One rollout: how it ended, seconds from the first exposure to no traffic (None: never), what callers saw."""

    state: str
    exposed_seconds: float | None
    load: dict[str, Any]
    sentence: str


def main() -> None:
    bad, dead, good = (int(n) for n in os.environ.get("ZANTARA_BENCH_REAL_ROLLOUTS", "7,3,10").split(","))
    with tempfile.TemporaryDirectory(prefix="zt-rollouts-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder) / "var").start()
        try:
            on = OnStack(stack.wait_ready(120))
            print(f"\nrollouts on the real stack, {RATE} requests/s over Envoy, 3 instances")
            _detect(on, "5 % errors at 10 % exposure", bad, 0.05, "bar: median ≤ 20 s, p95 ≤ 45 s")
            _detect(on, "every request fails", dead, 1.0, "bar: ≤ 6 s")
            _good(on, good)
            _takeover(on)
            _abort(on)
        finally:
            stack.stop()


def _detect(on: OnStack, what: str, runs: int, error_rate: float, bar: str) -> None:
    on.plan([(10, 120), (100, 0)])
    seconds = []
    for number in range(runs):
        version = f"bad-{int(error_rate * 100)}-{number}"
        on.chaos(version, error_rate=error_rate)
        told = _roll(on, version)
        print(f"  {what}: {told.state}, {told.exposed_seconds} s of traffic; {told.sentence}")
        if told.exposed_seconds is not None and told.state == "rolled_back":
            seconds.append(told.exposed_seconds)
    if seconds:
        ordered = sorted(seconds)
        p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
        median = statistics.median(ordered)
        print(f"{what}: taken back {len(seconds)} of {runs}, median {median:.1f} s, p95 {p95:.1f} s ({bar})")
    else:
        print(f"{what}: taken back 0 of {runs} ({bar})")


def _good(on: OnStack, runs: int) -> None:
    on.plan([(10, 10), (50, 10), (100, 0)])
    through = failed = closed = sent = 0
    for number in range(runs):
        told = _roll(on, f"good-{number}")
        through += told.state == "succeeded"
        failed += told.load["failed"] + sum(n for status, n in told.load["statuses"].items() if status != "200")
        closed, sent = closed + told.load["closed"], sent + told.load["sent"]
        if told.state != "succeeded":
            print(f"  good-{number}: {told.state}; {told.sentence}")
    print(
        f"good releases: {through} of {runs} through (bar: all); of {sent} requests {failed} failed and {closed} "
        "connections were closed (bar: 0 and 0)"
    )


def _roll(on: OnStack, version: str) -> Told:
    with on.load(RATE) as load:
        name = on.deploy(version)
        first = gone = None
        deadline = time.monotonic() + 240
        while True:
            ((state, share),) = on.rows(
                "SELECT state, effective_permille FROM deployments_deployment WHERE name = ?", name
            )
            now = time.monotonic()
            if share and first is None:
                first = now
            if first is not None and gone is None and share == 0:
                gone = now
            if state in OVER or now > deadline:
                break
            time.sleep(0.05)
    ((verdict, error),) = on.rows("SELECT verdict, error FROM deployments_deployment WHERE name = ?", name)
    exposed = round(gone - first, 1) if first is not None and gone is not None else None
    return Told(state, exposed, load.result, error or str(verdict)[:200])


def _takeover(on: OnStack) -> None:
    """The engine's worker is killed while a stage is watched: how long until somebody watches again."""
    on.plan([(10, 60), (100, 0)])
    with on.load(RATE):
        name = on.deploy("takeover")
        on.wait_for_state(name, "baking", seconds=90)
        time.sleep(3)
        for pid in on.engine_processes():
            on.kill(pid)
        killed = time.time()
        seen = None
        deadline = time.monotonic() + 60
        while seen is None and time.monotonic() < deadline:
            ((heartbeat,),) = on.rows("SELECT lease_heartbeat_at FROM deployments_deployment WHERE name = ?", name)
            seen = on.after(heartbeat, killed)
            time.sleep(0.05)
        took = f"{seen - killed:.1f} s" if seen is not None else "never"
        print(f"takeover after SIGKILL of the engine's worker: {took} (bar: ≤ 17 s)")
        on.steer("abort", name)
        on.wait_for_state(name, *OVER, seconds=60)


def _abort(on: OnStack) -> None:
    """From the command's row to the deployment's answer to it."""
    on.plan([(10, 60), (100, 0)])
    times = []
    for number in range(3):
        with on.load(RATE):
            name = on.deploy(f"abort-{number}")
            on.wait_for_state(name, "baking", seconds=90)
            on.steer("abort", name)
            on.wait_for_state(name, *OVER, seconds=60)
        ((asked, applied),) = on.rows(
            "SELECT c.created_at, c.applied_at FROM deployments_command c JOIN deployments_deployment d "
            "ON d.id = c.deployment_id WHERE d.name = ?", name,
        )  # fmt: skip
        times.append(on.moment(applied) - on.moment(asked))
    print(f"abort acknowledged after {', '.join(f'{t:.2f} s' for t in times)} (bar: ≤ 2 s)")
