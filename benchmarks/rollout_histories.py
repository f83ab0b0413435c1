"""Ten thousand random histories of a rollout, played by hypothesis against what must always hold (I1 to I12).

The machine is the test's (tests/deployments/rollout/histories.py): instances die, the edge, the target and the counters
come and go, clocks are set, people ask for everything, ticks come late, early and twice. What breaks is an error.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.common import bar, django_here, table

HISTORIES = int(os.environ.get("ZANTARA_BENCH_HISTORIES", "10000"))
PROCESSES = 2


def _play(seed: int) -> tuple[Counter[str], Counter[tuple[str, str]], int, int]:
    """Ends and transitions of this process's share, how many histories it was, and how many transitions there are."""
    with tempfile.TemporaryDirectory(prefix="zt-histories-") as folder:
        django_here(Path(folder))
    import hypothesis
    from hypothesis import HealthCheck, Phase, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.deployments.rollout.histories import Rollouts

    ends: Counter[str] = Counter()
    edges: Counter[tuple[str, str]] = Counter()
    played = 0

    class Counting(Rollouts):
        def teardown(self) -> None:
            nonlocal played
            super().teardown()
            played += 1
            if hasattr(self, "world"):
                ends[self.world.view.state] += 1
                edges.update(itertools.pairwise(self.world.path))

    run_state_machine_as_test(
        hypothesis.seed(seed)(Counting),  # type: ignore[arg-type]
        settings=settings(
            max_examples=HISTORIES // PROCESSES, stateful_step_count=30, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        ),
    )  # fmt: skip
    from deployments.machines import DEPLOYMENT

    return ends, edges, played, len(list(DEPLOYMENT.edges()))


def main() -> None:
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        found = pool.map(_play, range(PROCESSES))
    ends = sum((one for one, *_ in found), Counter[str]())
    edges = sum((one for _, one, *_ in found), Counter[tuple[str, str]]())
    played = sum(count for _, _, count, _ in found)
    table(
        f"Random histories of a rollout: {played} in {time.monotonic() - started:.0f} s, {len(edges)} of {found[0][3]} "
        "transitions taken",
        ("ended as", "histories"),
        [(state, str(count)) for state, count in ends.most_common()],
    )
    # A broken invariant is an error, which the runner shows whole: that it came to here is the result.
    bar("invariants broken", 0.0, 0.0, "")


if __name__ == "__main__":
    main()
