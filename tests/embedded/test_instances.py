"""Local instances end with the stack that they were started on, and an earlier run's are ended at its start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.embedded import instances
from deployments.targets.base import InstanceSpec
from deployments.targets.process import ProcessTarget
from tests.stack import wait_for

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def start(data_dir: Path, name: str, code: str = "import time; time.sleep(600)") -> Any:
    (data_dir / "checkout").mkdir(parents=True, exist_ok=True)
    spec = InstanceSpec(
        service="shop", release="1", slot=0, name=name, settings={"command": f'"{sys.executable}" -u -c "{code}"'},
        checkout=data_dir / "checkout", generation=1,
    )  # fmt: skip
    target = ProcessTarget(data_dir / "deployments")
    seen = target.ensure(spec)
    if code == STUBBORN:
        wait_for(lambda: "up" in target.log_tail(seen, spec.settings), 10, "its first word")
    return seen


def test_all_of_them_are_asked_and_the_stubborn_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "GRACE_SECONDS", 0.5)
    calm, stubborn = start(tmp_path, "shop-1-0"), start(tmp_path, "shop-1-1", STUBBORN)
    assert instances.stop_all(tmp_path) == ["shop-1-0", "shop-1-1"]
    assert not any(psutil.pid_exists(seen.handle["pid"]) for seen in (calm, stubborn))
    assert ProcessTarget(tmp_path / "deployments").find("shop", {}) == []
    assert instances.stop_all(tmp_path) == []


def test_an_instance_on_another_data_directory_is_let_alone(tmp_path: Path) -> None:
    seen = start(tmp_path / "mine", "shop-1-0")
    try:
        assert instances.stop_all(tmp_path / "other") == []
        assert psutil.pid_exists(seen.handle["pid"])
    finally:
        instances.stop_all(tmp_path / "mine")
