"""One service of two instances between fakes, with its first release deployed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from controlplane.kernel.local_secrets import data_dir
from deployments.models import Deployment, Release, Service
from deployments.stages import Stage as Share
from tests.deployments import factories
from tests.deployments.engine.fakes import Stage

STAGES = (Share(100, 6), Share(500, 6), Share(1000, 0))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture
def service(db: None, stage: Stage, tmp_path: Path) -> Service:
    # The fakes' clock gives every test's deployments the same names, and names are folders.
    shutil.rmtree(data_dir() / "deployments" / "shop", ignore_errors=True)
    return factories.make_service(
        "shop", stages=STAGES, health_check_timeout_seconds=10, drain_timeout_seconds=4, readiness_deadline_seconds=20
    )


def release_of(service: Service, version: str, tmp_path: Path, **columns: object) -> Release:
    source = tmp_path / version
    source.mkdir(exist_ok=True)
    (source / "version").write_text(version)
    return factories.make_release(service, version, source=str(source), digest="", **columns)


def ask(service: Service, release: Release, **options: object) -> Deployment:
    from deployments.engine.requests import request_deployment

    return request_deployment(service, release, trigger="manual", requested_by="olga", skips_pipeline=True, **options)


@pytest.fixture
def first(stage: Stage, service: Service, tmp_path: Path) -> Release:
    release = release_of(service, "1.0", tmp_path)
    stage.until(ask(service, release, at_once=True), "succeeded")
    return release
