"""The steps before traffic moves, with real subprocesses, and the backup that is waited for."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from controlplane.notifications.models import Message
from deployments.engine.pipeline_steps import checkout_of
from deployments.engine.requests import request_command, request_deployment
from deployments.models import Command, Deployment, PipelineStep, Release, Service, StepRun
from deployments.pipeline import fetch
from deployments.tasks import clear_checkouts
from tests.backups import factories as backup_factories
from tests.deployments.engine.conftest import release_of
from tests.deployments.engine.fakes import Stage

pytestmark = pytest.mark.django_db


def add_step(service: Service, phase: str, name: str, command: str, **columns: object) -> PipelineStep:
    return PipelineStep.objects.create(service=service, phase=phase, name=name, command=command, **columns)


def asked(service: Service, release: Release) -> Deployment:
    return request_deployment(service, release, trigger="manual", requested_by="olga")


def until(stage: Stage, deployment: Deployment, *states: str, seconds: float = 200) -> Deployment:
    """Ticks, with real time for real steps."""
    deadline = time.monotonic() + seconds
    while True:
        deployment.refresh_from_db()
        if deployment.state in states:
            return deployment
        assert not deployment.is_over, (deployment.state, deployment.error)
        assert time.monotonic() < deadline, (deployment.state, list(deployment.step_runs.values()))
        stage.tick(deployment.service)
        if deployment.state in ("fetching", "checking", "building", "validating"):
            time.sleep(0.1)


def test_a_release_is_fetched_checked_and_built_before_anything_of_it_runs(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    release = release_of(service, "2.0", tmp_path)
    (tmp_path / "2.0" / "hello.txt").write_text("hello")
    add_step(service, "check", "Look", "ls hello.txt")
    add_step(service, "check", "Grumble", "false", blocks=False, position=1)
    add_step(service, "build", "Copy", "cp hello.txt built.txt")
    add_step(service, "validate", "Smoke", "true")
    deployment = asked(service, release)

    until(stage, deployment, "building")
    service.steps.all().delete()  # what was frozen is not asked for again
    assert stage.target.running("2.0") == []
    until(stage, deployment, "succeeded")

    outcomes = dict(StepRun.objects.values_list("name", "outcome"))
    assert outcomes == {"Fetch": "passed", "Look": "passed", "Grumble": "warned", "Copy": "passed", "Smoke": "passed"}
    release.refresh_from_db()
    assert release.digest
    spec = next(spec for spec in stage.target.specs if spec.release == "2.0")
    assert spec.checkout is not None
    assert (spec.checkout / "built.txt").read_text() == "hello"
    assert not (tmp_path / "2.0" / "built.txt").exists()


def test_a_step_that_fails_ends_the_deployment_and_touches_nothing(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    add_step(service, "check", "Tests", "no-such-program --really")
    add_step(service, "build", "Never", "true")
    deployment = asked(service, release_of(service, "2.0", tmp_path))

    until(stage, deployment, "failed")

    assert deployment.error.startswith("Tests failed.")
    assert stage.edge.split("shop") == {"1.0": 1000}
    assert (len(stage.target.specs), StepRun.objects.filter(name="Never").exists()) == (2, False)
    assert Message.objects.filter(kind="deployment_failed").count() == 1


def test_a_source_that_is_gone_fails_the_fetch(stage: Stage, service: Service, first: Release, tmp_path: Path) -> None:
    release = release_of(service, "2.0", tmp_path)
    shutil.rmtree(tmp_path / "2.0")

    deployment = until(stage, asked(service, release), "failed")

    assert deployment.error.startswith("Fetch failed.")


def test_an_abort_ends_the_step_that_runs(stage: Stage, service: Service, first: Release, tmp_path: Path) -> None:
    add_step(service, "check", "Slow", "sleep 600")
    deployment = asked(service, release_of(service, "2.0", tmp_path))
    until(stage, deployment, "checking")
    stage.tick(service)
    request_command(deployment, Command.Kind.ABORT, actor="olga")

    stage.tick(service)

    deployment.refresh_from_db()
    run = StepRun.objects.get(name="Slow")
    assert (deployment.state, run.outcome) == ("aborted", "failed")
    from deployments.pipeline import runner

    deadline = time.monotonic() + 30
    while runner.look(Path(run.folder), run.handle).running:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_deployment_waits_for_its_backup_and_for_the_proof_that_is_asked_for(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    from backups.engine.run import run_backup
    from backups.models import ProofRun
    from backups.proof.run import run_proof

    service.backup_plan = backup_factories.files_plan(tmp_path / "backup", contents={"a": b"1"})
    service.backup_level = 1
    service.save()
    deployment = asked(service, release_of(service, "2.0", tmp_path))
    until(stage, deployment, "backing_up")
    stage.tick(service)
    deployment.refresh_from_db()
    record = deployment.backup
    assert record is not None
    assert (record.trigger, record.state) == ("deployment", "queued")
    stage.tick(service, 3)
    deployment.refresh_from_db()
    assert deployment.state == "backing_up"

    run_backup(record.pk, owner="test")
    record.artifacts.update(l1_at=None, l2_at=None, l3_at=None)
    ProofRun.objects.all().delete()
    stage.tick(service, 2)
    proof = ProofRun.objects.get(record=record, level=1)
    run_proof(proof.pk, owner="test")
    until(stage, deployment, "succeeded")


def test_a_backup_that_fails_ends_the_deployment(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    plan = backup_factories.files_plan(tmp_path / "backup", contents={"a": b"1"})
    service.backup_plan = plan
    service.save()
    plan.sources.update(enabled=False)
    deployment = asked(service, release_of(service, "2.0", tmp_path))

    until(stage, deployment, "failed")

    assert "has no enabled source" in deployment.error


def test_checkouts_that_nobody_needs_are_removed_when_a_deployment_is_over(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    service.keep_releases = 2
    service.save()
    releases = [release_of(service, version, tmp_path) for version in ("2.0", "3.0", "4.0")]
    for release in releases:
        until(stage, asked(service, release), "succeeded")
    there = [fetch.checkout_path("shop", release.version).is_dir() for release in releases]
    assert there == [False, True, True], "the one that serves and the one before it stay"
    clear_checkouts(service.pk)
    folder = fetch.checkout_path("shop", "4.0").parent
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["3.0", "4.0"]


def test_a_directory_that_was_fetched_once_is_never_used_in_place_afterwards(
    stage: Stage, service: Service, first: Release, tmp_path: Path
) -> None:
    release = release_of(service, "2.0", tmp_path)
    assert checkout_of(service, release) == tmp_path / "2.0"
    until(stage, asked(service, release), "succeeded")
    release.refresh_from_db()
    assert checkout_of(service, release) == fetch.checkout_path("shop", "2.0")
    shutil.rmtree(fetch.checkout_path("shop", "2.0"))
    assert checkout_of(service, release) is None
