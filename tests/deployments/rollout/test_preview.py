"""What is said before a deployment begins is what the engine then wants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployments.rollout.capacity import exchange
from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.preview import planned_stages, why_skipped
from deployments.stages import AT_ONCE, FULL, Stage


@given(
    instances=st.integers(0, 12),
    max_surge=st.integers(0, 12),
    permille=st.integers(1, FULL),
    has_edge=st.booleans(),
    has_old=st.booleans(),
)
def test_the_planned_instances_are_those_that_are_wanted(
    instances: int, max_surge: int, permille: int, has_edge: bool, has_old: bool
) -> None:
    policy = RolloutPolicy(instances=instances, max_surge=max_surge, has_edge=has_edge)
    (planned,) = planned_stages((Stage(permille, 60),), policy, has_old=has_old)
    assert (planned.stage == AT_ONCE[0]) == (
        bool(why_skipped(policy, has_old=has_old)) or (permille, 60) == (FULL, AT_ONCE[0].bake_seconds)
    )
    wanted = exchange(
        instances, max_surge, planned.stage.permille, ready=instances, there=instances, others=(), effective=0
    )
    assert planned.new == wanted.coming
    assert planned.effective_permille == (planned.stage.permille if instances else 0)
    assert planned.exchanged == (has_old and planned.stage.permille == FULL and 0 < max_surge < instances)


def test_each_reason_to_skip_the_stages_is_told() -> None:
    told = [
        why_skipped(RolloutPolicy(instances=2), has_old=False),
        why_skipped(RolloutPolicy(instances=2, has_edge=False), has_old=True),
        why_skipped(RolloutPolicy(instances=0), has_old=True),
        why_skipped(RolloutPolicy(instances=2), has_old=True),
    ]
    assert told == ["first", "no edge", "no instances", ""]
