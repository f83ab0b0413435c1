"""How often the judge takes a good release back and how soon a bad one, beside other rules on the same simulated ticks.

A rollout is simulated tick by tick (2 s): 10 % for 5 minutes, 50 % for 10, then all traffic for a tick. In good ones
the load follows the curve of a day and every third has error storms that strike both releases alike. Requests fail
independently of each other. Seeds are fixed: two runs print the same. The judge's own functions decide.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.common import bar, table
from deployments.judge.memory import Memory, fold
from deployments.judge.sequential import Evidence
from deployments.judge.types import Counts, JudgePolicy, Sample
from deployments.judge.verdict import ERRORS_PART, judge

#: Good rollouts of each load; bad ones are as many, less two fifths.
ROLLOUTS = int(os.environ.get("ZANTARA_BENCH_ROLLOUTS", "500"))
TICK_SECONDS = 2
STAGES = ((100, 150), (500, 300), (1000, 1))
BEGIN = datetime(2026, 11, 27, 2, 0, tzinfo=UTC)
POLICY = JudgePolicy()
LEVEL = 1 / (POLICY.alpha * ERRORS_PART)
MOST_FALSE, MOST_MEDIAN, MOST_P95, MOST_TOTAL = 1.0, 20.0, 45.0, 6.0


@dataclass(frozen=True)
class Scene:
    """Mean requests per second of the service, and the share of errors of each release.

    The new one is as good as the old one until the tick ``bad_from``.
    """

    rate: float
    old: float
    new: float
    bad_from: int = 0
    daily: bool = False
    storms: bool = False
    stages: tuple[tuple[int, int], ...] = STAGES


@dataclass(frozen=True)
class Ticks:
    """Counts per tick, and the share of traffic."""

    permille: np.ndarray
    new: np.ndarray
    new_bad: np.ndarray
    old: np.ndarray
    old_bad: np.ndarray


def simulate(scene: Scene, seed: int) -> Ticks:
    """One rollout."""
    draw = np.random.default_rng(seed)
    permille = np.concatenate([np.full(ticks, share) for share, ticks in scene.stages])
    count = len(permille)
    # the curve of a day, run through in an hour, so that a rollout sees slopes
    curve = np.sin(2 * math.pi * (np.arange(count) * TICK_SECONDS / 3600 + draw.random()))
    load = scene.rate * (1 + (0.5 * curve if scene.daily else 0))
    storm = np.zeros(count)
    if scene.storms:
        for _ in range(draw.poisson(2)):
            begin, length = draw.integers(count), draw.integers(5, 25)
            storm[begin : begin + length] = draw.uniform(0.02, 0.3)
        storm[permille == 1000] = 0  # with one release there are no two that it could strike alike
    new = draw.poisson(load * TICK_SECONDS * permille / 1000)
    old = draw.poisson(load * TICK_SECONDS * (1 - permille / 1000))
    share = np.where(np.arange(count) < scene.bad_from, scene.old, scene.new)
    return Ticks(
        permille, new, draw.binomial(new, 1 - (1 - share) * (1 - storm)),
        old, draw.binomial(old, 1 - (1 - scene.old) * (1 - storm)),
    )  # fmt: skip


def samples(ticks: Ticks) -> Iterator[Sample]:
    """The ticks as the judge gets them."""
    stage, before = -1, None
    for i, permille in enumerate(ticks.permille):
        stage, before = stage + (permille != before), permille
        yield Sample(
            BEGIN + timedelta(seconds=TICK_SECONDS * (i + 1)), int(stage), int(permille),
            Counts(int(ticks.new[i]), int(ticks.new_bad[i])), Counts(int(ticks.old[i]), int(ticks.old_bad[i])),
        )  # fmt: skip


def ours(ticks: Ticks) -> tuple[int | None, bool]:
    """The first tick at which the judge takes it back; and whether it would hold at the end of a stage.

    The same memory and bounds that ``judge`` uses, without its sentences.
    """
    memory, evidence, level, held = Memory(), Evidence(), 1.0, False
    for i, sample in enumerate(samples(ticks)):
        memory = fold(memory, sample, margin=POLICY.margin)
        if memory.errors is not evidence:
            evidence = memory.errors
            level = evidence.e
        if level >= LEVEL or memory.budget.used > POLICY.error_budget:
            return i, held
        if i + 1 < len(ticks.permille) and ticks.permille[i + 1] != ticks.permille[i]:
            # the sample once more, without counts of its own, asks what the verdict at this moment is
            held |= judge(POLICY, memory.to_json(), replace(sample, new=Counts(), old=Counts()))[1].outcome != "pass"
    return None, held


def minute_threshold(strikes: int) -> Callable[[Ticks], int | None]:
    """Less than 99 % success over a minute, looked at once a minute, so many times in a row."""

    def decide(ticks: Ticks) -> int | None:
        span, row = 60 // TICK_SECONDS, 0
        for end in range(span, len(ticks.permille) + 1, span):
            requests, bad = ticks.new[end - span : end].sum(), ticks.new_bad[end - span : end].sum()
            row = row + 1 if requests and bad > 0.01 * requests else 0
            if row == strikes:
                return end - 1
        return None

    return decide


def repeated_z_test(ticks: Ticks) -> int | None:
    """An ordinary one-sided test of two shares at p < 0.05, looked at after every tick."""
    new, new_bad = np.cumsum(ticks.new), np.cumsum(ticks.new_bad)
    old, old_bad = np.cumsum(ticks.old), np.cumsum(ticks.old_bad)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (new_bad + old_bad) / (new + old)
        z = (new_bad / new - old_bad / old) / np.sqrt(pooled * (1 - pooled) * (1 / new + 1 / old))
    hits = np.flatnonzero(z > 1.645)
    return int(hits[0]) if len(hits) else None


def ours_alone(ticks: Ticks) -> int | None:
    return ours(ticks)[0]


RULES: dict[str, Callable[[Ticks], int | None]] = {
    "ours": ours_alone,
    "under 99 % over a minute, once": minute_threshold(1),
    "the same, 3 in a row": minute_threshold(3),
    "z-test each tick": repeated_z_test,
}


def decide_all(task: tuple[Scene, int]) -> tuple[dict[str, int | None], bool]:
    """When each rule would have taken this rollout back; and whether ours would have held it."""
    ticks = simulate(*task)
    stopped, held = ours(ticks)
    return {"ours": stopped, **{name: rule(ticks) for name, rule in RULES.items() if name != "ours"}}, held


def false_aborts(scenes: Sequence[tuple[str, Scene]], run: Callable[..., Iterable]) -> float:
    """Prints how many of the good releases each rule took back; the worst share of ours in per cent."""
    rows, worst = [], 0.0
    for n, (name, scene) in enumerate(scenes):
        tasks = [(replace(scene, daily=True, storms=i % 3 == 0), 1_000_000 * n + i) for i in range(ROLLOUTS)]
        outcomes = list(run(decide_all, tasks, 8))
        shares = {rule: 100 * sum(o[rule] is not None for o, _ in outcomes) / ROLLOUTS for rule in RULES}
        holds = 100 * sum(held for _, held in outcomes) / ROLLOUTS
        worst = max(worst, shares["ours"])
        rows.append([name, *(f"{shares[rule]:.1f} %" for rule in RULES), f"{holds:.1f} %"])
    table(
        f"Good releases taken back, of {ROLLOUTS} rollouts each (a third of them with error storms in both releases)",
        ["load, errors of both", *RULES, "ours held"], rows,
    )  # fmt: skip
    return worst


Figures = dict[tuple[str, str], tuple[float, float]]


def detection(scenes: Sequence[tuple[str, Scene]], run: Callable[..., Iterable]) -> Figures:
    """Prints how soon each rule takes a bad release back; its figures by scene and rule."""
    rows: list[list[str]] = []
    figures: Figures = {}
    for n, (name, scene) in enumerate(scenes):
        outcomes = [
            o
            for o, _ in run(decide_all, [(scene, 77_000_000 + 1_000_000 * n + i) for i in range(ROLLOUTS * 3 // 5)], 8)
        ]
        cells = []
        for rule in RULES:
            ticks = [o[rule] + 1 - scene.bad_from if o[rule] is not None else math.inf for o in outcomes]
            times = sorted(TICK_SECONDS * tick for tick in ticks if tick > 0) or [math.inf]
            figures[name, rule] = times[len(times) // 2], times[int(len(times) * 0.95)]
            early = 100 * sum(tick <= 0 for tick in ticks) / len(ticks)
            text = " / ".join(_seconds(figure) for figure in figures[name, rule])
            cells.append(text + (f" ({early:.0f} % while it was good)" if early else ""))
        rows.append([name, *cells])
    table("Seconds until a bad release is taken back, median / 95th percentile", ["load, old -> new", *RULES], rows)
    return figures


def _seconds(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds:.0f} s"


def main() -> None:
    """Print both tables and the bars."""
    good = [
        (f"{rate} req/s, {100 * share:g} %", Scene(rate, share, share))
        for rate, share in itertools.product((5, 50, 500), (0.001, 0.01))
    ]
    bad_at, total = "50 req/s, 0.1 -> 5 %", "50 req/s, 0.1 -> 100 %"
    bad = [
        (total, Scene(50, 0.001, 1.0)),
        (bad_at, Scene(50, 0.001, 0.05)),
        ("50 req/s, 0.1 -> 2 %", Scene(50, 0.001, 0.02)),
        ("50 req/s, 0.5 -> 2 %", Scene(50, 0.005, 0.02)),
        ("50 req/s, 0 -> 2 %", Scene(50, 0.0, 0.02)),
        ("50 req/s at 50 %, 0.1 -> 5 % after 10 minutes", Scene(50, 0.001, 0.05, bad_from=300)),
        ("500 req/s at 50 %, 1 -> 5 % after 10 minutes", Scene(500, 0.01, 0.05, bad_from=300)),
        ("5 req/s, 0.1 -> 5 %", Scene(5, 0.001, 0.05)),
        ("5 req/s, 0.1 -> 100 %", Scene(5, 0.001, 1.0)),
        ("500 req/s, 1 -> 3 %", Scene(500, 0.01, 0.03)),
        ("500 req/s, 0.1 -> 0.5 %", Scene(500, 0.001, 0.005)),
        ("5 req/s at 50 %, 0.1 -> 100 %", Scene(5, 0.001, 1.0, stages=((500, 300),))),
        ("50 req/s at 90 %, 0.1 -> 100 %", Scene(50, 0.001, 1.0, stages=((900, 300),))),
        ("50 req/s at 100 %, -> 100 %", Scene(50, 0.001, 1.0, stages=((1000, 300),))),
        ("50 req/s at 100 %, -> 20 %", Scene(50, 0.001, 0.2, stages=((1000, 300),))),
    ]
    with multiprocessing.Pool(2) as pool:
        worst = false_aborts(good, pool.imap)
        figures = detection(bad, pool.imap)
    print()
    bar("good releases taken back, in the worst of the loads", worst, MOST_FALSE, "%")
    bar(f"median of {bad_at}, 10 %", figures[bad_at, "ours"][0], MOST_MEDIAN, "s")
    bar(f"95th percentile of {bad_at}, 10 %", figures[bad_at, "ours"][1], MOST_P95, "s")
    bar(f"95th percentile of {total}, 10 %", figures[total, "ours"][1], MOST_TOTAL, "s")


if __name__ == "__main__":
    main()
