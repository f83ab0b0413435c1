"""A stack that has just started: its first backup, the drill of it, and both cycles of the command line."""

from __future__ import annotations

import json

import pytest

from tests.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]

SEEDED = ("chroma", "configuration", "control-plane-database", "logs", "user-data", "zantara-memory-vectors")


def test_a_stack_that_has_just_started_is_backed_up_drilled_lost_and_recovered(stack: Stack) -> None:
    """From ``make run`` on nothing: a first backup, its drill, and then both cycles by the stack's own workers."""

    def first() -> list[dict[str, object]]:
        listed = json.loads(stack.manage("backup", "list", "--limit", "500", "--json").stdout)
        parts: list[dict[str, object]] = next(row["artifacts"] for row in listed if row["trigger"] == "first")
        return parts if parts and all(part["proof_level"] == 3 or part["damage"] for part in parts) else []

    parts = wait_for(first, 120, "the first backup was not drilled")
    assert {str(part["name"]): (part["proof_level"], part["damage"]) for part in parts} == dict.fromkeys(
        SEEDED, (3, "")
    )

    tested = stack.manage("backup", "test", timeout_seconds=240)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.splitlines()[-1].startswith("✓ proven: every part of zantara-backup-")

    recovered = stack.manage("backup", "recovery-test", "--json", timeout_seconds=240)
    assert recovered.returncode == 0, recovered.stdout + recovered.stderr
    document = json.loads(recovered.stdout)
    assert (document["proven"], document["score"] >= 80, document["vectors"] >= 2) == (True, True, True)
