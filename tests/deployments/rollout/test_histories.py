"""A few hundred random histories; ten thousand of them are in benchmarks/rollout_histories.py."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.deployments.rollout.histories import Rollouts


def test_whatever_happens_no_invariant_of_a_rollout_is_broken() -> None:
    run_state_machine_as_test(
        Rollouts,
        settings=settings(
            max_examples=250, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
