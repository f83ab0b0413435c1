"""A small world for the pure core: instances, an edge and a clock that a test can hurt, and what must always hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.judge.types import Verdict
from deployments.machines import DEPLOYMENT, PAUSABLE
from deployments.rollout.capacity import most_instances
from deployments.rollout.decide import decide
from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.types import (
    BackupView,
    CommandView,
    Decision,
    Drain,
    EdgeView,
    Effect,
    Ensure,
    Forget,
    HealthView,
    InstanceView,
    KillStep,
    Notify,
    Observations,
    RequestBackup,
    RequestProof,
    RolloutView,
    RunStep,
    SetSplit,
    StepView,
    Stop,
    Undrain,
)
from deployments.stages import FULL, Stage

NEW, OLD = "2.0", "1.0"
START = datetime(2026, 1, 1, tzinfo=UTC)
PASS = Verdict("pass", "No worse.")
FAIL = Verdict("fail", "Far worse.", "errors")
UNSURE = Verdict("inconclusive", "Too few requests.", "data")


@dataclass
class Thing:
    """One instance of the world."""

    name: str
    release: str
    slot: int
    started: float
    running: bool = True
    ready_since: float | None = None
    unready_since: float | None = None
    draining: float | None = None
    stopping: float | None = None
    restarts: int = 0
    ends_at: float = math.inf
    oom: bool = False


class World:
    """One service with a deployment. ``tick`` is what the engine does; everything else is what may happen to it."""

    def __init__(
        self,
        policy: RolloutPolicy,
        stages: tuple[Stage, ...],
        *,
        first: bool = False,
        steps: tuple[StepView, ...] = (),
        **view: Any,
    ) -> None:
        self.policy, self.time, self.skew = policy, 0.0, 0.0
        self.old = None if first else OLD
        self.current = self.old
        self.view = RolloutView("deploy-1", "waiting", NEW, self.old, stages, policy, **view)
        self.things: dict[str, Thing] = {}
        self.split: dict[str, int] = {} if first else {OLD: FULL}
        self.edge: dict[str, int] = dict(self.split)
        self.edge_up = self.target_up = self.counted = True
        self.starts_in = 1.0
        self.broken: set[str] = set()
        self.verdict: Verdict | None = PASS
        self.health = HealthView(True, True, 100)
        self.steps = {(one.phase, one.position): one for one in steps}
        self.backup: BackupView | None = None
        self.line = self.way_back = self.other = ""
        self.commands: list[CommandView] = []
        self.answers: dict[int, str] = {}
        self.path = ["waiting"]
        self.messages: list[str] = []
        self.events: list[str] = []
        for slot in range(0 if first else policy.instances):
            self.things[f"{OLD}-{slot}"] = Thing(f"{OLD}-{slot}", OLD, slot, -60.0, ready_since=-50.0)

    # --- what the engine does ----------------------------------------------------------------------------------

    def tick(self, seconds: float = 2.0, *, twice: bool = False) -> None:
        self.pass_time(seconds)
        pending = [one.pk for one in self.commands]
        for _ in range(12):
            seen, now = self.seen(), self.now
            decision = decide(self.view, seen, self.commands, now)
            assert decision == decide(self.view, seen, self.commands, now)
            self._carry_out(decision, twice=twice)
            if decision.move is None:
                break
        else:
            raise AssertionError(f"it does not come to rest: {self.path[-12:]}")
        assert set(pending) <= set(self.answers), "a command was not answered within the tick"
        self.check()

    def _carry_out(self, decision: Decision, *, twice: bool) -> None:
        before = self.view
        for one in decision.applied:
            self.answers[one.pk] = one.outcome
        self.commands = [one for one in self.commands if one.pk not in self.answers]
        self.events += decision.notes
        self.view = replace(self.view, **{k: v for k, v in decision.changes.items() if k in _COLUMNS})
        if decision.move is not None:
            assert DEPLOYMENT.allows(before.state, decision.move.to), (before.state, decision.move)
            self._check_move(before, decision)
            self.view = replace(self.view, state=decision.move.to)
            self.path.append(decision.move.to)
            if decision.move.record:
                self.current = NEW if decision.move.record == "promoted" else self.old
        for effect in decision.effects:
            self._do(effect)
            if twice:
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Ensure):
            self._ensure(effect)
        elif isinstance(effect, Drain):
            self._check_drain(effect.name)
            if self.things[effect.name].draining is None:
                self.things[effect.name].draining = self.time
        elif isinstance(effect, Undrain):
            self.things[effect.name].draining = None
        elif isinstance(effect, Stop):
            self._stop(self.things[effect.name])
        elif isinstance(effect, Forget):
            gone = self.things.pop(effect.name, None)
            assert gone is None or not gone.running
        elif isinstance(effect, SetSplit):
            self._set_split(dict(effect.permille))
        elif isinstance(effect, RunStep):
            step = self.steps[effect.phase, effect.position]
            if step.attempt < effect.attempt:
                self.steps[effect.phase, effect.position] = replace(step, status="running", attempt=effect.attempt)
        elif isinstance(effect, KillStep):
            step = self.steps[effect.phase, effect.position]
            self.steps[effect.phase, effect.position] = replace(step, status="failed")
        elif isinstance(effect, RequestBackup):
            self.backup = self.backup or BackupView("backup-1", "running")
        elif isinstance(effect, RequestProof):
            assert self.backup is not None
            self.backup = replace(self.backup, proving=True)
        elif isinstance(effect, Notify):
            self.messages.append(effect.kind)

    def _ensure(self, effect: Ensure) -> None:
        name = f"{effect.release}-{effect.slot}"
        thing = self.things.get(name)
        if thing is None:
            self.things[name] = Thing(name, effect.release, effect.slot, self.time, unready_since=self.time)
        elif not thing.running:
            thing.running, thing.started, thing.ready_since, thing.ends_at = True, self.time, None, math.inf
            thing.unready_since = self.time
            thing.restarts += 1

    def _stop(self, thing: Thing) -> None:
        if thing.stopping is not None:
            return
        drained = self.time - (thing.draining if thing.draining is not None else math.inf)
        quiet = self.edge_up and not self.edge.get(thing.release)
        assert not thing.running or not self.policy.has_edge or quiet or drained >= self.policy.drain_timeout_seconds
        thing.stopping = self.time
        thing.ends_at = self.time + 3

    def _set_split(self, permille: dict[str, int]) -> None:
        assert sum(permille.values()) in (0, FULL)
        new = permille.get(NEW, 0)
        assert new <= self.view.stage.permille, "I3: more than the stage gives"
        for release, share in permille.items():
            if share and not self.split.get(release) and self.policy.instances and release == NEW:
                assert self.ready(release) >= 1, "I4: traffic for a release that nothing serves"
        self.split = permille
        if self.edge_up:
            self.edge = dict(permille)

    # --- what is always true -----------------------------------------------------------------------------------

    def check(self) -> None:
        most = most_instances(self.policy.instances, self.policy.max_surge)
        assert len(self.things) <= most, f"I2: {len(self.things)} of {most}"
        if self.view.state == "rolled_back" and self.old is not None:
            assert self.edge.get(NEW, 0) == 0 or not self.policy.has_edge
            assert self.current == OLD
            assert not [one for one in self.things.values() if one.release == NEW]
        if self.view.state == "succeeded":
            assert self.current == NEW
            assert self.edge == {NEW: FULL} or not self.policy.has_edge
            assert not [one for one in self.things.values() if one.release == OLD]
        if self.view.state in ("failed", "aborted"):
            assert not [one for one in self.things.values() if one.release == NEW]
            assert self.split == ({OLD: FULL} if self.old else {})

    def _check_drain(self, name: str) -> None:
        """I1: what drains is not needed: without it as many are ready as are wanted, or it is not serving."""
        thing = self.things[name]
        if thing.draining is not None or not self._is_ready(thing) or not self.edge.get(thing.release):
            return
        rest = sum(self._is_ready(one) for one in self.things.values() if one is not thing)
        assert rest >= self.policy.instances, f"I1: only {rest} would be left"

    def _check_move(self, before: RolloutView, decision: Decision) -> None:
        assert decision.move is not None
        to, moved_by = decision.move.to, decision.move.actor
        if before.state in ("shifting", "baking") and to == "rolling_back" and not moved_by:
            gates = any(
                one.restarts >= 3 or one.oom or self._unready(one) >= self.policy.readiness_deadline_seconds
                for one in self.things.values()
                if one.release == NEW
            )
            known = self.verdict is FAIL or not self.health.ok or not self.health.read or gates
            known = known or (self.policy.inconclusive_policy == "abort" and self.counted)
            known = known or "were ready after" in decision.move.reason
            assert known, f"I11: taken back for want of metrics: {decision.move.reason}"
        if before.state == "baking" and to in ("shifting", "validating") and not moved_by:
            sure = self.verdict is PASS or self.policy.inconclusive_policy == "promote" or self.view.memory.get("fully")
            asked = self.policy.has_edge and self.old and before.stage.bake_seconds and self.policy.instances
            assert sure or not asked, "I10: promoted without a verdict"
        if before.state == "paused" and to not in ("rolling_back", "failed", "aborted"):
            assert moved_by or before.memory.get("paused_by") == "line", "it went on by itself"
        if to == "rolling_back":
            assert before.state not in ("rolling_back", "rolled_back")

    # --- what is seen ------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.time + self.skew)

    def seen(self) -> Observations:
        return Observations(
            instances=tuple(self._view(one) for one in self.things.values()) if self.target_up else None,
            edge=EdgeView(dict(self.edge), self.edge == self.split, dict.fromkeys((OLD, NEW), 0))
            if self.edge_up
            else None,
            split=dict(self.split),
            counted=self.counted and self.edge_up,
            verdict=self.verdict if self.edge_up and self.counted else None,
            health=self.health,
            steps=tuple(self.steps.values()),
            backup=self.backup,
            line_stopped=self.line,
            other_active=self.other,
            current_release=self.current,
            way_back=self.way_back,
            boot="here",
            monotonic=self.time,
        )

    def _view(self, one: Thing) -> InstanceView:
        return InstanceView(
            name=one.name,
            release=one.release,
            slot=one.slot,
            running=one.running,
            ready_seconds=self.time - one.ready_since if one.running and one.ready_since is not None else None,
            unready_seconds=self._unready(one) if one.unready_since is not None else None,
            started_seconds=self.time - one.started,
            draining_seconds=self.time - one.draining if one.draining is not None else None,
            stopping_seconds=self.time - one.stopping if one.stopping is not None else None,
            restarts=one.restarts,
            oom_killed=one.oom,
        )

    def _unready(self, one: Thing) -> float:
        return self.time - one.unready_since if one.unready_since is not None else 0.0

    def _is_ready(self, one: Thing) -> bool:
        return (
            one.running
            and one.draining is None
            and one.stopping is None
            and one.ready_since is not None
            and self.time - one.ready_since >= self.policy.min_ready_seconds
        )

    def ready(self, release: str) -> int:
        return sum(self._is_ready(one) for one in self.things.values() if one.release == release)

    # --- what happens ------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        if self.edge_up:
            self.edge = dict(self.split)
        for one in self.things.values():
            if one.running and self.time >= one.ends_at:
                self.die(one)
            fit = one.release not in self.broken and self.time - one.started >= self.starts_in
            if one.running and fit and one.ready_since is None:
                one.ready_since, one.unready_since = self.time, None
            elif one.ready_since is not None and (not one.running or not fit):
                one.ready_since, one.unready_since = None, self.time
        for key, step in self.steps.items():
            if step.status == "running":
                self.steps[key] = replace(step, status="passed")
        if self.backup is not None and self.backup.state == "running":
            self.backup = replace(self.backup, state="committed", level=0)
        elif self.backup is not None and self.backup.proving:
            self.backup = replace(self.backup, proving=False, level=self.policy.backup_level)

    def die(self, one: Thing) -> None:
        one.running, one.ready_since, one.unready_since = False, None, self.time

    def order(self, kind: str) -> int:
        pk = len(self.answers) + len(self.commands) + 1
        self.commands.append(CommandView(pk, kind, "olga"))
        return pk

    def run(self, ticks: int, until: str = "") -> None:
        """Ticks until that state, at most so many."""
        for _ in range(ticks):
            if self.view.state == until:
                return
            self.tick()
        assert not until or self.view.state == until, self.path

    def heal(self) -> None:
        """Whatever hurt is over."""
        self.edge_up = self.target_up = self.counted = True
        self.line = self.way_back = self.other = ""
        self.broken, self.starts_in, self.verdict = set(), 1.0, PASS
        self.health = HealthView(True, True, 100)

    @property
    def is_held(self) -> bool:
        """Waits for a person."""
        return self.view.state == "rollback_blocked" or (
            self.view.state == "paused" and self.view.memory.get("paused_by") != "line"
        )


_COLUMNS = frozenset(RolloutView.__dataclass_fields__)
__all__ = ["FAIL", "NEW", "OLD", "PASS", "PAUSABLE", "UNSURE", "World"]
