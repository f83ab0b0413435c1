"""Local processes keep the contract of targets."""

from __future__ import annotations

import pytest

from tests.deployments.contracts.target_contract import TargetContract

from .conftest import ProcessWorld


class TestProcessTarget(TargetContract):
    @pytest.fixture
    def world(self, process_world: ProcessWorld) -> ProcessWorld:
        return process_world
