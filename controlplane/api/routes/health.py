"""The health document of the control plane, and its score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest
from ninja import Router

from controlplane.api import schemas
from controlplane.api.auth import scoped
from controlplane.monitoring.health.document import (
    MOST_MEMORY_PERCENT,
    MOST_RESPONSE_MILLISECONDS,
    State,
    current_state,
    health_document,
)
from controlplane.monitoring.health.score import COMPONENTS, HealthScore, Observation, health_score, observe

router = Router(tags=["health"])
#: Component of the score -> the probe that answers for it.
_PROBES = {"database": "database", "vector_store": "chroma"}


@router.get("/health", **scoped("health:read", operation_id="get_health", response=schemas.Health))
def get_health(request: HttpRequest) -> dict[str, Any]:
    """The health document with its remedies, and the score that restores and rollouts go by. Always 200."""
    state = current_state()
    score = score_of(state)
    return {
        "document": health_document(state, details=True),
        "score": {
            "value": score.value,
            "share": score.share,
            "suffices": score.suffices(),
            "failed_gates": score.failed_gates,
            "reasons": score.reasons,
        },
    }


def score_of(state: State) -> HealthScore:
    """The score of this process's state; components that the installation does not have are left out. Pure."""
    seen = list(_observations(state))
    names = {observation.component for observation in seen}
    return health_score(seen, [component for component in COMPONENTS if component.name in names])


def _observations(state: State) -> Iterator[Observation]:
    yield Observation("api", "pass", "it answers")
    for component, probe in _PROBES.items():
        if probe in state.results:
            yield observe(component, state.results[probe])
    percent = state.memory_percent
    yield Observation("memory", "fail" if percent >= MOST_MEMORY_PERCENT else "pass", f"memory is at {percent:.0f} %")
    slow = (state.traffic.p95_seconds or 0.0) * 1000
    late = slow >= MOST_RESPONSE_MILLISECONDS
    yield Observation("response_time", "fail" if late else "pass", f"one in twenty takes {slow:.0f} ms or longer")
