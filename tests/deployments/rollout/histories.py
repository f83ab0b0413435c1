"""Random histories of a rollout, and what must hold in all of them: hypothesis plays the world."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.types import HealthView, StepView
from deployments.stages import Stage
from tests.deployments.rollout.world import FAIL, NEW, OLD, PASS, UNSURE, World

KINDS = ("promote", "promote_fully", "pause", "resume", "abort", "retry", "roll_back")
STAGES = (
    (Stage(100, 10), Stage(500, 20), Stage(1000, 0)),
    (Stage(1000, 0),),
    (Stage(10, 4), Stage(1000, 8)),
    (Stage(333, 0), Stage(1000, 6)),
)
STEPS = (
    StepView("fetch", 0, "Fetch"),
    StepView("check", 0, "Types"),
    StepView("build", 0, "Build"),
    StepView("validate", 0, "Smoke"),
)


class Rollouts(RuleBasedStateMachine):
    """One deployment from its request to its end, and whatever can happen to it meanwhile."""

    @initialize(
        instances=st.integers(0, 6),
        max_surge=st.integers(0, 4),
        stages=st.sampled_from(STAGES),
        has_edge=st.sampled_from((True, True, False)),
        rollback_enabled=st.sampled_from((True, True, False)),
        forward_only=st.sampled_from((False, False, False, True)),
        first=st.sampled_from((False, False, False, True)),
        inconclusive=st.sampled_from(("hold", "abort", "promote")),
        pipeline=st.booleans(),
        backup=st.booleans(),
    )
    def begin(
        self,
        instances: int,
        max_surge: int,
        stages: tuple[Stage, ...],
        has_edge: bool,
        rollback_enabled: bool,
        forward_only: bool,
        first: bool,
        inconclusive: str,
        pipeline: bool,
        backup: bool,
    ) -> None:
        policy = RolloutPolicy(
            instances=instances,
            max_surge=max_surge,
            has_edge=has_edge,
            rollback_enabled=rollback_enabled,
            inconclusive_policy=inconclusive,
            inconclusive_extensions=1,
            health_check_timeout_seconds=20,
            readiness_deadline_seconds=20,
            drain_timeout_seconds=6,
            has_backup_plan=backup,
            backup_level=1 if backup else 0,
        )
        self.world = World(
            policy, stages, first=first, steps=STEPS if pipeline else (), skips_pipeline=not pipeline,
            forward_only=forward_only,
        )  # fmt: skip

    @rule(twice=st.booleans(), count=st.integers(1, 6))
    def ticks(self, twice: bool, count: int) -> None:
        for _ in range(count):
            self.world.tick(twice=twice)

    @rule(seconds=st.sampled_from((0.0, 0.3, 40.0, 900.0)))
    def a_tick_comes_early_or_late(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(seconds=st.sampled_from((-3600.0, -30.0, 30.0, 3600.0)))
    def the_clock_is_set(self, seconds: float) -> None:
        before = self.world.view.observed_seconds
        self.world.skew += seconds
        self.world.tick(0.0)
        assert self.world.view.observed_seconds <= before, "a clock that is set is no time"

    @rule(kind=st.sampled_from(KINDS), then=st.sampled_from(KINDS) | st.none())
    def somebody_asks(self, kind: str, then: str | None) -> None:
        world, state = self.world, self.world.view.state
        pk = world.order(kind)
        if then:
            world.order(then)
        world.tick()
        over = state in ("succeeded", "rolled_back", "failed", "aborted")
        if kind == "abort" and not over and state != "rollback_blocked":
            ends = ("aborted", "rolled_back", "rolling_back", "rollback_blocked")
            assert state == "rolling_back" or world.view.state in ends, world.path
            assert world.answers[pk]

    @rule(verdict=st.sampled_from((PASS, PASS, UNSURE, FAIL, None)))
    def the_judge_says(self, verdict: Any) -> None:
        self.world.verdict = verdict

    @rule(health=st.sampled_from((HealthView(True, True, 100), HealthView(True, False, 60), HealthView())))
    def health_is(self, health: HealthView) -> None:
        self.world.health = health

    @rule(what=st.sampled_from(("edge_up", "target_up", "counted")), works=st.booleans())
    def something_answers_or_not(self, what: str, works: bool) -> None:
        setattr(self.world, what, works)

    @rule(line=st.sampled_from(("", "an incident")))
    def the_line(self, line: str) -> None:
        self.world.line = line

    @rule(lost=st.sampled_from(("", "its image is gone")))
    def the_way_back(self, lost: str) -> None:
        self.world.way_back = lost

    @rule(release=st.sampled_from((NEW, OLD)), broken=st.booleans())
    def a_release_is_broken(self, release: str, broken: bool) -> None:
        (self.world.broken.add if broken else self.world.broken.discard)(release)

    @rule(data=st.data())
    @precondition(lambda self: bool(self.world.things))
    def an_instance_dies(self, data: st.DataObject) -> None:
        thing = self.world.things[data.draw(st.sampled_from(sorted(self.world.things)))]
        self.world.die(thing)
        thing.oom = data.draw(st.sampled_from((False, False, True))) and thing.release == NEW

    @rule(data=st.data())
    @precondition(lambda self: any(one.status == "running" for one in self.world.steps.values()))
    def a_step_ends_otherwise(self, data: st.DataObject) -> None:
        for key, step in self.world.steps.items():
            if step.status == "running":
                status = data.draw(st.sampled_from(("gone", "failed", "timed_out", "unknown", "warned")))
                self.world.steps[key] = type(step)(**{**_fields(step), "status": status})

    def teardown(self) -> None:
        """Whatever happened: once it is over, the deployment comes to an end, or waits for a person."""
        world = getattr(self, "world", None)
        if world is None:
            return
        world.heal()
        for _ in range(400):
            if world.view.state in ("succeeded", "rolled_back", "failed", "aborted") or world.is_held:
                break
            world.tick()
        else:
            raise AssertionError(f"it does not end: {world.path}")
        if world.view.state == "paused":
            assert world.view.pause_reason


def _fields(step: StepView) -> dict[str, Any]:
    return {name: getattr(step, name) for name in StepView.__dataclass_fields__}
