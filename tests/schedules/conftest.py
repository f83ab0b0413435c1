"""Fixtures of the schedules' tests."""

from __future__ import annotations

import pytest

from controlplane.kernel.registry import Registry, ScheduleSpec, schedules
from controlplane.schedules import heartbeat


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Registry[ScheduleSpec]:
    """The registry of schedules, emptied for this test."""
    monkeypatch.setattr(schedules, "_entries", {})
    return schedules


@pytest.fixture
def only_heartbeat(declared: Registry[ScheduleSpec]) -> ScheduleSpec:
    """The code declares the heartbeat and nothing else."""
    return declared.add(heartbeat.SPEC.name, heartbeat.SPEC)
