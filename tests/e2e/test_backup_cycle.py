"""A stack that has just started: its first backup, the drill of it, and both cycles of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from backups.sources.pg_connect import Address
from tests.backups.servers.postgres import postgres_database, postgres_server  # noqa: F401  (fixtures)
from tests.stack import Stack, wait_for

#: Whole stacks of their own, for minutes; one at a time.
pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.xdist_group("stack")]

NewDatabase = Callable[[], Address]
SEEDED = ("chroma", "configuration", "control-plane-database", "logs", "user-data", "zantara-memory-vectors")


def first_backup(stack: Stack) -> list[dict[str, object]]:
    """The parts of the first backup, once each is proven or found damaged."""
    listed = json.loads(stack.manage("backup", "list", "--limit", "500", "--json").stdout)
    parts: list[dict[str, object]] = next(row["artifacts"] for row in listed if row["trigger"] == "first")
    return parts if parts and all(part["proof_level"] == 3 or part["damage"] for part in parts) else []


def test_a_stack_that_has_just_started_is_backed_up_drilled_lost_and_recovered(stack: Stack) -> None:
    """From ``make run`` on nothing: a first backup, its drill, and then both cycles by the stack's own workers."""
    parts = wait_for(lambda: first_backup(stack), 120, "the first backup was not drilled")
    found = {str(part["name"]): (part["proof_level"], part["damage"]) for part in parts}
    assert found == dict.fromkeys(SEEDED, (3, ""))

    tested = stack.manage("backup", "test", timeout_seconds=240)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.splitlines()[-1].startswith("✓ proven: every part of zantara-backup-")

    recovered = stack.manage("backup", "recovery-test", "--json", timeout_seconds=240)
    assert recovered.returncode == 0, recovered.stdout + recovered.stderr
    document = json.loads(recovered.stdout)
    assert (document["proven"], document["score"] >= 80, document["vectors"] >= 2) == (True, True, True)


def test_a_stack_on_postgresql_drills_its_own_database_too(
    postgres_database: NewDatabase,  # noqa: F811
    tmp_path: Path,
) -> None:
    address = postgres_database()
    given = address.parameters
    url = f"postgres://{given['user']}@/{address.database}?host={quote(given['host'], safe='')}&port={given['port']}"
    stack = Stack(tmp_path / "var", environ={"ZANTARA_DATABASE_URL": url})
    try:
        stack.start().wait_ready(120)
        parts = wait_for(lambda: first_backup(stack), 180, "the first backup was not drilled")
    finally:
        stack.stop()
    own = next(part for part in parts if part["name"] == "control-plane-database")
    assert (own["kind"], own["proof_level"], own["damage"]) == ("postgres", 3, "")
    assert {part["proof_level"] for part in parts} == {3}
