"""From the edge's cumulative counters to what one tick saw, and to a verdict. All of it is kept with the deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction

from deployments.edge.base import CountersSeen, ReleaseCounters
from deployments.errors import EdgeUnavailable
from deployments.judge.health import Answer, ReleaseHealth, release_health
from deployments.judge.types import Counts, JudgePolicy, Sample, Verdict
from deployments.judge.verdict import judge
from deployments.models import Observation
from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.types import HealthView

from .asking import Said
from .held import Held
from .instances import Standing
from .publication import edge
from .steps import step_reached

_COUNTED = ("requests", "errors", "slow", "shed", "limited")


@dataclass(frozen=True, slots=True)
class Judged:
    """What this tick knows of the new release. ``counted``: both releases' counters follow those of the tick before."""

    counted: bool = False
    verdict: Verdict | None = None
    health: HealthView = field(default_factory=HealthView)


def counters_of(held: Held) -> CountersSeen | None:
    """What the edge has counted for the service; None without an edge, or where it does not answer."""
    if held.service.edge_port is None:
        return None
    try:
        return edge().counters(held.service.name)
    except EdgeUnavailable:
        return None


def judge_tick(
    held: Held,
    standing: Sequence[Standing],
    said: Mapping[str, Said],
    counters: CountersSeen | None,
    *,
    permille: int,
    gates: Sequence[str],
    now: datetime,
) -> Judged:
    """Fold what this tick saw into the deployment's judge, store it, and say what it means. Written at once, under
    the lease: a process that dies before has seen nothing, one that dies after has judged once.
    """
    deployment = held.deployment
    assert deployment is not None  # noqa: S101  (its caller has one)
    policy = RolloutPolicy.from_json(deployment.policy)
    health, view = _health(deployment.release.version, standing, said, policy)
    new, old = deployment.release.version, deployment.from_release.version if deployment.from_release else ""
    kept = dict(deployment.judge)
    sample = Sample(
        at=now,
        stage_index=deployment.stage_index,
        permille=permille,
        new=_since(kept.get("cursors"), counters, new),
        old=_since(kept.get("cursors"), counters, old) if old else None,
        score=health.score if view.read else None,
        score_reasons=health.reasons if view.read else (),
        gates=tuple(gates),
        active_new=_active(counters, new),
        active_old=_active(counters, old),
        p95_new_ms=_p95(kept.get("cursors"), counters, new),
        p95_old_ms=_p95(kept.get("cursors"), counters, old),
    )
    state, verdict = judge(
        JudgePolicy(error_budget=policy.error_budget, min_score=policy.min_health_score),
        kept.get("state", {}), sample, new=new, old=old,
    )  # fmt: skip
    cursors = _cursors(counters) if counters is not None else kept.get("cursors", {})
    with transaction.atomic():
        held.write_deployment(
            judge={**kept, "cursors": cursors, "state": state},
            verdict={**verdict.to_json(), "at": now.isoformat()},
            health={"score": sample.score, "reasons": list(health.reasons), "at": now.isoformat(),
                    "instances": dict(health.instances)},
        )  # fmt: skip
        Observation.objects.create(
            deployment=deployment, at=now, stage_index=sample.stage_index, permille=permille, data=sample.to_json()
        )
    step_reached("judged")
    counted = sample.new is not None and (sample.old is not None or not old)
    return Judged(counted, verdict, view)


def _health(
    version: str, standing: Sequence[Standing], said: Mapping[str, Said], policy: RolloutPolicy
) -> tuple[ReleaseHealth, HealthView]:
    mine = [one for one in standing if one.row.release.version == version and one.row.draining_since is None]
    answers = [_answer(one, said.get(one.row.name), policy) for one in mine]
    health = release_health(answers, health_map=policy.health_map, has_document=policy.has_document)
    # One that is known to be down was seen; one that did not answer in time was not.
    read = bool(answers) and not any(answer.timed_out for answer in answers)
    ok = bool(answers) and health.score >= policy.min_health_score
    return health, HealthView(read, ok, health.score if answers else None, health.reasons)


def _answer(one: Standing, said: Said | None, policy: RolloutPolicy) -> Answer:
    if not one.running or said is None:
        return Answer(one.row.name, ready=False, problem="it does not run")
    return Answer(
        one.row.name,
        ready=said.ready,
        document=said.document,
        problem=said.problem or said.document_problem,
        timed_out=said.timed_out or said.ready is None,
    )


# --- counters --------------------------------------------------------------------------------------------------


def _cursors(counters: CountersSeen) -> dict[str, Any]:
    releases = {
        version: {**{name: getattr(seen, name) for name in _COUNTED},
                  "buckets": {str(bound): count for bound, count in seen.buckets.items()}}
        for version, seen in counters.releases.items()
    }  # fmt: skip
    return {"epoch": counters.epoch, "releases": releases}


def _since(cursors: Any, counters: CountersSeen | None, version: str) -> Counts | None:
    """What was counted since the last tick; None where there is none to compare with, or the edge began anew."""
    last = _last(cursors, counters, version)
    if last is None or counters is None:
        return None
    seen = counters.releases.get(version, ReleaseCounters())
    values = {name: getattr(seen, name) - int(last.get(name, 0)) for name in _COUNTED}
    return Counts(**values) if min(values.values()) >= 0 else None


def _last(cursors: Any, counters: CountersSeen | None, version: str) -> Mapping[str, Any] | None:
    if counters is None or not isinstance(cursors, Mapping) or cursors.get("epoch") != counters.epoch:
        return None
    found = cursors.get("releases", {}).get(version, {})  # a release that is new to the edge begins at nothing
    return found if isinstance(found, Mapping) else None


def _active(counters: CountersSeen | None, version: str) -> int | None:
    seen = counters.releases.get(version) if counters is not None else None
    return seen.active if seen is not None else None


def _p95(cursors: Any, counters: CountersSeen | None, version: str) -> float | None:
    """The bound under which 95 of 100 of this tick's requests were; None without any, or above every bound."""
    last = _last(cursors, counters, version)
    seen = counters.releases.get(version) if counters is not None else None
    if last is None or seen is None:
        return None
    before = last.get("buckets", {})
    counts = [(bound, count - int(before.get(str(bound), 0))) for bound, count in sorted(seen.buckets.items())]
    total = counts[-1][1] if counts else 0
    if total <= 0:
        return None
    return next((bound for bound, count in counts if count >= 0.95 * total and bound != float("inf")), None)
