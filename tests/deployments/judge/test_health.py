"""The health score of a release, from what its instances answered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.kernel.registry import ProbeResult
from controlplane.monitoring.health.document import State, health_document
from controlplane.monitoring.health.minute import Traffic
from deployments.judge.health import Answer, ReleaseHealth, instance_score, release_health


def document(
    *, services: dict[str, str] | None = None, memory: float = 40.0, p95: float | None = 0.08
) -> dict[str, Any]:
    """A health document as a service of ours makes it."""
    services = {"database": "pass", "chroma": "pass", "redis": "pass"} if services is None else services
    return health_document(
        State(
            at=datetime(2026, 11, 27, 2, 30, tzinfo=UTC), uptime_seconds=12.0, memory_used_bytes=2**28,
            memory_limit_bytes=2**29, memory_percent=memory, connections=3,
            traffic=Traffic(60.0, 300.0, 0.0, 0.02, p95),
            results={name: ProbeResult(status, "…") for name, status in services.items()},  # type: ignore[arg-type]
            critical=frozenset({"database"} & set(services)),
        )
    )  # fmt: skip


def answer(name: str = "zantara-43-0", **more: Any) -> Answer:
    return Answer(**{"instance": name, "ready": True, "document": document(), **more})


def test_an_instance_in_which_all_is_well_scores_a_hundred() -> None:
    assert release_health([answer()]) == ReleaseHealth(100, (), {"zantara-43-0": 100})


@pytest.mark.parametrize(
    ("seen", "score", "reason"),
    [
        ({"services": {"database": "pass", "chroma": "fail"}}, 80, "vector_store failed: chroma is fail"),
        ({"services": {"database": "pass", "chroma": "unknown"}}, 80, "vector_store timed out: chroma is unknown"),
        ({"memory": 90.0}, 90, "memory failed: 90 % used, under 90 % is needed"),
        ({"p95": 1.2}, 80, "response_time failed: 1200 ms, under 1000 ms is needed"),
        (
            {"services": {"database": "fail", "chroma": "pass"}}, 0,
            "database failed: database is fail (nothing counts without it)",
        ),
        (
            {"services": {"database": "unknown", "chroma": "pass"}}, 0,
            "database timed out: database is unknown (nothing counts without it)",
        ),
    ],
)  # fmt: skip
def test_each_component_counts_for_what_it_weighs(seen: dict[str, Any], score: int, reason: str) -> None:
    health = release_health([answer(document=document(**seen))])
    assert (health.score, health.reasons) == (score, (f"zantara-43-0: {reason}",))


def test_what_a_service_has_none_of_is_left_out() -> None:
    """API 25, memory 10 and response time 20 are the whole; without requests enough for a 95th percentile, 35."""
    lean = document(services={}, memory=95.0)
    assert release_health([answer(document=lean)]).score == 100 * 45 // 55
    quiet = document(services={}, memory=95.0, p95=None)
    assert release_health([answer(document=quiet)]).score == 100 * 25 // 35


def test_the_map_says_which_of_the_documents_services_a_component_is() -> None:
    own = document(services={"orders-db": "fail", "database": "pass", "faiss": "pass"})
    mapped = {"database": "orders-db", "vector_store": "faiss"}
    assert release_health([answer(document=own)]).score == 100
    assert release_health([answer(document=own)], health_map=mapped).score == 0
    assert release_health([answer(document=own)], health_map={"database": "", "vector_store": "faiss"}).score == 100


def test_a_service_that_the_map_names_and_the_document_does_not_has_failed() -> None:
    health = release_health([answer()], health_map={"vector_store": "qdrant"})
    assert (health.score, health.reasons) == (
        80, ("zantara-43-0: vector_store failed: the document has no service 'qdrant'",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answered", "reason"),
    [
        (
            Answer("a", timed_out=True, problem="no answer within 2 s"),
            "a: api timed out: no answer within 2 s (nothing counts without it)",
        ),
        (Answer("a", ready=True), "a: api failed: no health document (nothing counts without it)"),
        (
            Answer("a", ready=False, problem="readiness says 503", document=document()),
            "a: api failed: readiness says 503 (nothing counts without it)",
        ),
        (
            Answer("a", ready=True, document={"hello": "world"}),
            "a: api failed: no health document (nothing counts without it)",
        ),
    ],
    ids=["timed out", "no document", "not ready", "another document"],
)
def test_without_an_answer_nothing_counts(answered: Answer, reason: str) -> None:
    health = release_health([answered])
    assert (health.score, health.reasons) == (0, (reason,))


@pytest.mark.parametrize(("ready", "score"), [(True, 100), (False, 0), (None, 0)])
def test_a_service_without_a_document_is_judged_by_readiness_alone(ready: bool | None, score: int) -> None:
    assert release_health([Answer("files-7-0", ready=ready)], has_document=False).score == score


def test_the_worst_instance_counts_and_is_named_first() -> None:
    health = release_health(
        [
            answer("zantara-43-0", document=document(memory=95)),
            answer("zantara-43-1", timed_out=True),
            answer("zantara-43-2"),
        ]
    )
    assert health.score == 0
    assert health.instances == {"zantara-43-0": 90, "zantara-43-1": 0, "zantara-43-2": 100}
    assert next(reason.split(":")[0] for reason in health.reasons) == "zantara-43-1"


def test_without_instances_the_score_is_nothing_and_many_reasons_are_cut_short() -> None:
    assert release_health([]) == ReleaseHealth(0, ("there is no new instance to ask",), {})
    many = release_health([Answer(f"i{n}", timed_out=True) for n in range(20)])
    assert len(many.reasons) == 7
    assert many.reasons[-1] == "and 14 more"


def test_documents_of_other_makes_are_understood() -> None:
    foreign = {
        "status": "UP", "services": {"db": {"status": "UP"}, "qdrant": True}, "memory": {"percentage": "n/a"},
        "performance": None,
    }  # fmt: skip
    assert release_health([answer(document=foreign)]).score == 100
    foreign["services"] = {"db": {"status": "UP"}, "qdrant": None}
    assert release_health([answer(document=foreign)]).score == 100 * 50 // 70


def test_a_hostile_document_is_quoted_only_briefly() -> None:
    health = release_health([answer(document=document() | {"services": {"database": "x" * 10_000}})])
    assert len(health.reasons[0]) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("healthy", "status", "services", "memory", "performance"), json_values)
    )
)
def test_no_document_whatever_is_in_it_breaks_the_score(anything: dict[str, Any]) -> None:
    assert 0 <= instance_score(answer(document=anything)).value <= 100
