from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kernel.errors import Refused
from controlplane.kernel.registry import ProbeResult
from controlplane.monitoring.health.score import (
    COMPONENTS,
    ENOUGH,
    Component,
    HealthScore,
    Observation,
    Verdict,
    health_score,
    observe,
)

NAMES = [component.name for component in COMPONENTS]
GATES = {"api", "database"}


def scored(**verdicts: Verdict) -> HealthScore:
    everything: dict[str, Verdict] = {**dict.fromkeys(NAMES, "pass"), **verdicts}  # type: ignore[dict-item]
    return health_score(Observation(name, verdict) for name, verdict in everything.items())


def test_everything_that_passes_is_a_hundred() -> None:
    assert scored() == HealthScore(value=100, share=100, failed_gates=(), reasons=())


@pytest.mark.parametrize(
    ("failed", "value", "suffices"),
    [
        (["vector_store"], 80, True),
        (["response_time"], 80, True),
        (["memory"], 90, True),
        (["memory", "vector_store"], 70, False),
        (["vector_store", "response_time"], 60, False),
        (["vector_store", "response_time", "memory"], 50, False),
    ],
)
def test_one_component_that_is_no_gate_may_fail(failed: list[str], value: int, suffices: bool) -> None:
    score = scored(**dict.fromkeys(failed, "fail"))  # type: ignore[arg-type]
    assert (score.value, score.suffices(), score.failed_gates) == (value, suffices, ())
    assert ENOUGH == 80


@pytest.mark.parametrize("gate", sorted(GATES))
@pytest.mark.parametrize("verdict", ["fail", "timeout"])
def test_without_a_gate_nothing_else_counts(gate: str, verdict: Verdict) -> None:
    score = scored(**{gate: verdict})
    assert (score.value, score.share, score.failed_gates) == (0, 75, (gate,))
    assert not score.suffices(0)


def test_a_component_that_timed_out_or_was_not_asked_has_failed_and_says_so() -> None:
    score = health_score(
        [Observation("api", "pass"), Observation("database", "pass"), Observation("memory", "timeout", "no answer")]
    )
    assert (score.value, score.reasons) == (
        50, ("vector_store was not observed", "memory timed out: no answer", "response_time was not observed"),
    )  # fmt: skip
    assert scored(api="fail").reasons == ("api failed (nothing counts without it)",)


def test_an_installation_without_a_component_is_measured_by_the_others() -> None:
    present = [component for component in COMPONENTS if component.name != "vector_store"]
    assert health_score([Observation(one.name, "pass") for one in present], present).value == 100


def test_the_score_is_rounded_down() -> None:
    thirds = [Component(name, 1) for name in "abc"]
    assert health_score([Observation("a", "pass"), Observation("b", "pass")], thirds).value == 66


@pytest.mark.parametrize(
    ("status", "verdict"), [("pass", "pass"), ("warn", "pass"), ("fail", "fail"), ("unknown", "timeout")]
)
def test_a_probe_is_an_observation(status: str, verdict: Verdict) -> None:
    seen = observe("memory", ProbeResult(status, "so it is"))  # type: ignore[arg-type]
    assert seen == Observation("memory", verdict, "so it is")


@pytest.mark.parametrize(
    ("observations", "components"),
    [
        ([Observation("coffee", "pass")], COMPONENTS),
        ([Observation("api", "pass"), Observation("api", "fail")], COMPONENTS),
        ([], ()),
        ([], (Component("api", 0),)),
        ([], (Component("api", 1), Component("api", 2))),
    ],
)
def test_what_makes_no_sense_is_refused(observations: list[Observation], components: tuple[Component, ...]) -> None:
    with pytest.raises(Refused):
        health_score(observations, components)


verdicts = st.sampled_from(["pass", "fail", "timeout"])
observations = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, verdicts))


def of(verdicts: dict[str, Verdict]) -> HealthScore:
    return health_score(Observation(name, verdict) for name, verdict in verdicts.items())


@given(observations)
def test_a_score_is_between_0_and_100_and_has_a_reason_for_each_point_that_is_missing(seen: dict) -> None:
    score = of(seen)
    assert 0 <= score.value <= score.share <= 100
    assert (score.share == 100) == (not score.reasons)
    assert len(score.reasons) == len(NAMES) - list(seen.values()).count("pass")
    assert set(score.failed_gates) == {name for name in GATES if seen.get(name) != "pass"}
    assert (score.value == 0) == bool(score.failed_gates)


@given(observations, st.sampled_from(NAMES))
def test_a_component_that_recovers_never_lowers_the_score(seen: dict, name: str) -> None:
    before, after = of(seen), of({**seen, name: "pass"})
    assert after.value >= before.value
    assert after.share >= before.share
    assert after.suffices() >= before.suffices()
