"""What tests of restores read of a row, and when a living system is restored."""

from __future__ import annotations

from typing import Any

from backups.models import RestoreEvent, RestoreRecord
from tests.backups.restore.conftest import Living


def states(row: RestoreRecord) -> list[str]:
    return [event.to_state for event in RestoreEvent.objects.filter(subject=row)]


def steps(row: RestoreRecord) -> list[tuple[str, str, str]]:
    return [(step["step"], step["artifact"], step["status"]) for step in row.steps]


def assert_restored(living: Living, saved: dict[str, Any]) -> None:
    state = living.state()
    assert state["rows"] == saved["rows"]
    assert {path: state["files"].get(path) for path in saved["files"]} == saved["files"]
