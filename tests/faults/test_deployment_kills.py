"""The process that ticks is killed at every transition and at every effect; another one brings it to its end.

Nobody unlocks anything: the lease runs out, and the next tick sees what is there. Whoever was served is served.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.kernel import clock
from deployments.engine import steps
from deployments.engine.requests import request_command
from deployments.machines import ACTIVE, BEFORE_INSTANCES, DEPLOYMENT
from deployments.models import Command, Deployment, DeploymentEvent, Instance, Release, ServiceState
from tests.backups import factories as backup_factories
from tests.backups.engine.seeing import wait_until_stopped
from tests.deployments.edge.kit import World
from tests.deployments.engine.real import Real, Workers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]

EDGES = tuple(DEPLOYMENT.edges())
ENDS = ("succeeded", "rolled_back", "failed", "aborted", "paused", "rollback_blocked")


@pytest.fixture(scope="module")
def envoy() -> Iterator[World]:
    """One proxy for all: each test has a service and a port of its own."""
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    with tempfile.TemporaryDirectory(prefix="zt-edge-") as folder:
        world = World(Path(folder), free_port)
        try:
            world.start()
            yield world
        finally:
            world.close()


@pytest.fixture(scope="module")
def workers(django_db_setup: None) -> Iterator[Workers]:
    """One for all tests: it is set up once, and each of its processes opens the database anew."""
    made = Workers()
    yield made
    made.close()


@pytest.fixture
def real(envoy: World, tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Real]:
    envoy.port = free_port()
    made = Real(tmp_path, envoy, f"shop-{uuid.uuid4().hex[:8]}")
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    made.until(made.ask(made.release("1.0"), at_once=True), "succeeded")
    yield made
    made.close()


def put(real: Real, state: str, **columns: Any) -> Deployment:
    """A deployment of 2.0 that is in that state, as if it had come there by itself."""
    release = columns.pop("release", None) or real.release("2.0")
    deployment = real.ask(release, skips_pipeline=columns.pop("skips_pipeline", state not in BEFORE_INSTANCES))
    if state == "waiting":
        return deployment
    current = ServiceState.objects.get(service=real.service).current
    values: dict[str, Any] = {
        "from_release": current,
        "started_at": clock.now(),
        "memory": {"steps": columns.pop("steps", [])},
        **columns,
    }
    if state in ("baking", "validating", "finishing", "rolling_back", "rollback_blocked"):
        # Drive it to its first share, so that the world is as it would be.
        Deployment.objects.filter(pk=deployment.pk).update(
            **{**values, "stages": [{"permille": 200, "bake_seconds": 600}, {"permille": 1000, "bake_seconds": 0}]}
        )
        real.until(deployment, "baking")
        values.pop("memory")
        values["stages"] = [{"permille": 200, "bake_seconds": 0}, {"permille": 1000, "bake_seconds": 0}]
        if state in ("validating", "finishing"):
            values |= {"stage_index": 1, "requested_permille": 1000}
    if state == "finishing":
        values["promoted_at"] = clock.now()
        ServiceState.objects.filter(service=real.service).update(current=release, previous=current)
    Deployment.objects.filter(pk=deployment.pk).update(state=state, **values)
    deployment.refresh_from_db()
    return deployment


FALSE = {"name": "Broken", "kind": "command", "command": "false", "working_directory": "", "timeout_seconds": 30,
         "blocks": True, "unknown_policy": "block", "position": 0}  # fmt: skip


def arrange(real: Real, was: str, to: str) -> Deployment:
    """A deployment in ``was`` whose next ticks lead to ``to``."""
    if was == "paused":
        resume_to = {"aborted": "queued", "rolling_back": "starting"}.get(to, to)
        made = put(real, resume_to, skips_pipeline=resume_to not in BEFORE_INSTANCES or resume_to == "queued")
        Deployment.objects.filter(pk=made.pk).update(state="paused", resume_to=resume_to)
        made.refresh_from_db()
        kind = Command.Kind.ABORT if to in ("aborted", "rolling_back") else Command.Kind.RESUME
        request_command(made, kind, actor="olga")
        return made
    if to == "rollback_blocked":
        return put(real, was, release=_forward_only(real))
    if to == "failed":
        if was in ("queued", "fetching"):
            return put(real, was, release=_without_source(real), skips_pipeline=was == "queued")
        if was == "backing_up":
            made = put(real, was, skips_pipeline=False)
            policy = {**made.policy, "has_backup_plan": True}
            Deployment.objects.filter(pk=made.pk).update(policy=policy)
            return made
        phase = {"checking": "check", "building": "build"}[was]
        return put(real, was, skips_pipeline=False, steps=[{**FALSE, "phase": phase}])
    natural = to not in ("paused", "aborted", "rolling_back") and was != "rollback_blocked"
    made = put(real, was, skips_pipeline=(was, to) == ("queued", "starting") or was not in BEFORE_INSTANCES)
    if (was, to) == ("baking", "validating"):
        Deployment.objects.filter(pk=made.pk).update(stage_index=1, requested_permille=1000)
    if natural:
        return made
    kind = {"paused": Command.Kind.PAUSE, "shifting": Command.Kind.PROMOTE_FULLY}.get(to, Command.Kind.ABORT)
    if was == "rollback_blocked" and to == "rolling_back":
        kind = Command.Kind.ROLL_BACK
    request_command(made, kind, actor="olga")
    return made


def _forward_only(real: Real) -> Release:
    release = real.release("2.0")
    Release.objects.filter(pk=release.pk).update(forward_only=True)
    release.refresh_from_db()
    return release


def _without_source(real: Real) -> Release:
    release = real.release("2.0")
    Release.objects.filter(pk=release.pk).update(source=f"{release.source}-is-gone")
    release.refresh_from_db()
    return release


def assert_all_is_well(real: Real, deployment: Deployment, was: str = "waiting") -> None:
    """What must hold at the end, whoever was killed on the way. Its moves follow each other from ``was`` on."""
    deployment.refresh_from_db()
    events = DeploymentEvent.objects.filter(subject=deployment).values_list("from_state", "to_state")
    moves = [(here, there) for here, there in events if here != there]
    moves = moves[next(number for number, (here, _) in enumerate(moves) if here == was) :]
    assert all(there == here for (_, there), (here, _) in itertools.pairwise(moves)), moves
    state = ServiceState.objects.select_related("current").get(service=real.service)
    assert state.current is not None
    if deployment.is_over:
        expected = "2.0" if deployment.state == "succeeded" else "1.0"
        assert (state.current.version, state.split) == (expected, {expected: 1000})
        alive = Instance.objects.filter(service=real.service, stopped_at__isnull=True)
        assert set(alive.values_list("release__version", flat=True)) == {expected}
        assert (deployment.lease_owner, deployment.lease_expires_at) == ("", None)
        assert {real.get() for _ in range(10)} == {(200, expected)}
    active = Deployment.objects.filter(service=real.service, state__in=ACTIVE)
    assert not active.exclude(pk=deployment.pk).exists()


@pytest.mark.parametrize(("was", "to"), EDGES)
def test_a_process_killed_in_a_transition_costs_a_lease_and_no_more(
    real: Real, workers: Workers, was: str, to: str
) -> None:
    deployment = arrange(real, was, to)

    real.killed_at(workers, f"moving:{was}:{to}")
    deployment.refresh_from_db()
    assert deployment.state == was
    real.expire_leases()
    real.killed_at(workers, f"moved:{was}:{to}")
    deployment.refresh_from_db()
    assert deployment.state == to

    assert real.get()[0] == 200
    real.expire_leases()
    real.until(deployment, *ENDS)
    if deployment.state == "paused":
        request_command(deployment, Command.Kind.ABORT, actor="olga")
        real.until(deployment, "aborted", "rolled_back", "rollback_blocked")
    assert_all_is_well(real, deployment, was)


ROLLOUT = ("leased", "observed", "judged", "decided", "carried_out", "released", "row_written", "instance_started",
           "split_written", "edge_told", "drain_written", "stop_asked", "instance_forgotten")  # fmt: skip
PIPELINE = ("step_written", "step_begun")


@pytest.mark.parametrize("step", [*ROLLOUT, *PIPELINE])
def test_a_process_killed_at_an_effect_is_replaced_by_the_next_tick(real: Real, workers: Workers, step: str) -> None:
    deployment = real.ask(real.release("2.0"), skips_pipeline=step not in PIPELINE)
    with real.load() as seen:
        real.killed_at(workers, step)
        real.expire_leases()
        real.until(deployment, "succeeded")

    assert set(seen) == {200}
    assert_all_is_well(real, deployment)


def test_a_process_killed_while_it_ends_a_step_leaves_it_to_the_next(real: Real, workers: Workers) -> None:
    slow = {**FALSE, "phase": "check", "command": "sleep 600", "name": "Slow"}
    deployment = put(real, "checking", skips_pipeline=False, steps=[slow])
    workers.begin(real, once=True)
    assert workers.end() == (0, "checking")
    request_command(deployment, Command.Kind.ABORT, actor="olga")

    real.killed_at(workers, "step_killed")
    real.expire_leases()
    real.until(deployment, "aborted")

    assert_all_is_well(real, deployment, "checking")


def test_a_process_killed_around_the_backup_asks_for_one_backup_and_one_proof(
    real: Real, workers: Workers, tmp_path: Path
) -> None:
    from backups.engine.run import run_backup
    from backups.models import BackupRecord, ProofRun
    from backups.proof.run import run_proof

    plan = backup_factories.files_plan(tmp_path / "backup", contents={"a": b"1"})
    real.service.backup_plan, real.service.backup_level = plan, 1
    real.service.save()
    deployment = real.ask(real.release("2.0"), skips_pipeline=False)

    real.killed_at(workers, "backup_asked")
    real.expire_leases()
    record = BackupRecord.objects.get(trigger=BackupRecord.Trigger.DEPLOYMENT)
    run_backup(record.pk, owner="test")
    ProofRun.objects.all().delete()
    record.artifacts.update(l1_at=None, l2_at=None, l3_at=None)
    real.killed_at(workers, "proof_asked")
    real.expire_leases()
    proof = ProofRun.objects.get(record=record, level=1)
    run_proof(proof.pk, owner="test")
    real.until(deployment, "succeeded")

    assert (deployment.backup, BackupRecord.objects.count()) == (record, 1)
    assert_all_is_well(real, deployment)


@pytest.mark.parametrize("step", ["observed", "decided", "row_written", "split_written", "moved:shifting:baking"])
def test_a_zombie_that_wakes_after_another_has_finished_writes_nothing(real: Real, workers: Workers, step: str) -> None:
    deployment = real.ask(real.release("2.0"))
    pid = workers.begin(real, kill_at=f"{step}:STOP", proof=real.folder / "stopped")
    try:
        wait_until_stopped(pid)
        real.expire_leases()
        real.until(deployment, "succeeded")
        split, facts, _ = real.facts()
    finally:
        os.kill(pid, signal.SIGCONT)
    code, said = workers.end()

    assert (code, "lost" in said) == (0, True)
    assert (real.facts()[0], real.facts()[1]["route"]) == (split, facts["route"])
    assert_all_is_well(real, deployment)


def test_every_transition_and_every_step_has_its_kill() -> None:
    killed = {f"{when}:{was}:{to}" for was, to in EDGES for when in ("moving", "moved")}
    killed |= {*ROLLOUT, *PIPELINE, "step_killed", "backup_asked", "proof_asked"}

    assert killed == set(steps.STEPS)
    assert {(was, to) for was, to in EDGES} == set(DEPLOYMENT.edges())
