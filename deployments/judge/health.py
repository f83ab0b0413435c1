"""The health score of a new release: what its instances answered, and what that is worth. Pure.

The score is the seed's (``controlplane.monitoring.health.score``): API, database, vector store, memory, response time;
80 of 100 are needed, and nothing counts without API and database. The worst instance counts, because its callers have
no other. What timed out has failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.kernel.registry import ProbeResult
from controlplane.monitoring.health.document import MOST_MEMORY_PERCENT, MOST_RESPONSE_MILLISECONDS
from controlplane.monitoring.health.score import COMPONENTS, Component, HealthScore, Observation, health_score, observe

#: Which of the document's services a component is where the service's ``health_map`` names none: the first there is.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "database": ("database", "db", "postgres", "postgresql", "sqlite"),
    "vector_store": ("vector_store", "chroma", "vectors", "qdrant", "weaviate"),
}
#: How services of other makes say it.
_GOOD = frozenset({"pass", "warn", "ok", "up", "healthy", "connected", "true"})
_SILENT = frozenset({"unknown", "timeout", "none", ""})

MOST_REASONS = 6
#: What another service says of itself is quoted no further than this.
LONGEST_WORD = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """What one instance said. ``ready``: its readiness path answered well (None: not asked).

    ``document`` is its health document (None: it gave none); ``problem`` says why not, for people, without secrets;
    ``timed_out``: it did not answer in time.
    """

    instance: str
    ready: bool | None = None
    document: Mapping[str, Any] | None = None
    problem: str = ""
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseHealth:
    """``score`` of the worst instance, with the reasons of every one that is short of 100; ``instances`` has each."""

    score: int
    reasons: tuple[str, ...]
    instances: Mapping[str, int] = field(default_factory=dict)


def release_health(
    answers: Iterable[Answer], *, health_map: Mapping[str, str] | None = None, has_document: bool = True
) -> ReleaseHealth:
    """The health of a release from the answers of all its new instances; 0 without any.

    ``health_map``: component -> the document's service; an empty name says that the service has none of it. A service
    without a document is judged by readiness alone. Components that are unknown in ``health_map`` are passed over.
    """
    scores = {
        answer.instance: instance_score(answer, health_map=health_map, has_document=has_document) for answer in answers
    }
    if not scores:
        return ReleaseHealth(0, ("there is no new instance to ask",))
    reasons = [
        f"{name}: {reason}"
        for name, score in sorted(scores.items(), key=lambda item: item[1].value)
        for reason in score.reasons
    ]
    if len(reasons) > MOST_REASONS:
        reasons[MOST_REASONS:] = [f"and {len(reasons) - MOST_REASONS} more"]
    return ReleaseHealth(
        min(score.value for score in scores.values()),
        tuple(reasons),
        {name: score.value for name, score in scores.items()},
    )


def instance_score(
    answer: Answer, *, health_map: Mapping[str, str] | None = None, has_document: bool = True
) -> HealthScore:
    """The score of one instance. Of a document that is missing nothing is known: then the API has failed."""
    observations = [_api(answer, has_document=has_document)]
    if has_document and answer.document is not None:
        services = answer.document.get("services")
        services = services if isinstance(services, Mapping) else {}
        for component in ("database", "vector_store"):
            seen = _service(component, services, (health_map or {}).get(component))
            observations += [seen] if seen else []
        observations += [seen for seen in (_memory(answer.document), _response_time(answer.document)) if seen]
    asked = {observation.component for observation in observations}
    return health_score(observations, _components(asked))


def _components(asked: set[str]) -> list[Component]:
    """The seed's, without those that the service has none of."""
    return [component for component in COMPONENTS if component.name in asked]


def _api(answer: Answer, *, has_document: bool) -> Observation:
    """It answers: it is ready, and there is a document where there should be one."""
    if answer.timed_out:
        return Observation("api", "timeout", answer.problem)
    if answer.ready is False:
        return Observation("api", "fail", answer.problem or "not ready")
    if has_document and not _is_document(answer.document):
        return Observation("api", "fail", answer.problem or "no health document")
    if not has_document and answer.ready is None:
        return Observation("api", "timeout", answer.problem)
    return Observation("api", "pass")


def _is_document(document: Mapping[str, Any] | None) -> bool:
    """Ours says whether it is ``healthy``; others at least what their ``status`` is."""
    return document is not None and (
        isinstance(document.get("healthy"), bool) or isinstance(document.get("status"), str)
    )


def _service(component: str, services: Mapping[str, Any], named: str | None) -> Observation | None:
    """One of the document's services; None if there is none of it."""
    if named == "":
        return None
    names = (named,) if named else USUAL_NAMES[component]
    name = next((name for name in names if name in services), None)
    if name is None:
        return Observation(component, "fail", f"the document has no service {named!r}") if named else None
    return observe(component, _result(name, services[name]))


def _result(name: str, value: Any) -> ProbeResult:
    """What the document says of a service, as a word, a truth value, or an object with a ``status``."""
    if isinstance(value, Mapping):
        value = value.get("status")
    word = str(value).strip().lower()[:LONGEST_WORD]
    status = "pass" if word in _GOOD else "unknown" if word in _SILENT else "fail"
    return ProbeResult(status, "" if status == "pass" else f"{name} is {word or 'silent'}")  # type: ignore[arg-type]


def _memory(document: Mapping[str, Any]) -> Observation | None:
    memory = document.get("memory")
    percent = _number(memory.get("percentage")) if isinstance(memory, Mapping) else None
    if percent is None:
        return None
    if percent < MOST_MEMORY_PERCENT:
        return Observation("memory", "pass")
    return Observation("memory", "fail", f"{percent:.0f} % used, under {MOST_MEMORY_PERCENT:.0f} % is needed")


def _response_time(document: Mapping[str, Any]) -> Observation | None:
    """The 95th percentile of its last minute. An instance that had too few requests for one is not judged by it."""
    performance = document.get("performance")
    milliseconds = _number(performance.get("responseTime")) if isinstance(performance, Mapping) else None
    if milliseconds is None:
        return None
    if milliseconds < MOST_RESPONSE_MILLISECONDS:
        return Observation("response_time", "pass")
    return Observation(
        "response_time", "fail", f"{milliseconds:.0f} ms, under {MOST_RESPONSE_MILLISECONDS:.0f} ms is needed"
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
