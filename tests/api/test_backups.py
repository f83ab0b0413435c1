"""Backups: look, run, verify, drill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User

from backups.models import BackupPlan, BackupRecord, ProofRun
from tests.backups import factories

from .conftest import Program, token_for


@pytest.fixture
def plan(db: None, tmp_path: Path) -> BackupPlan:
    return factories.files_plan(tmp_path, name="nightly")


def test_a_plan_is_run_by_a_worker(program: Program, plan: BackupPlan) -> None:
    answer = program.post("/backups", {"plan": "nightly", "reason": "before the move"})
    record = BackupRecord.objects.get()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v1/backups/{record.name}")
    assert (record.state, record.trigger, record.reason) == ("queued", "manual", "before the move")
    assert record.requested_by.startswith("root (token zt_")
    assert answer.json()["state"] == "queued"
    second = program.post("/backups", {})
    assert (second.status_code, second.json()["type"]) == (409, "urn:zantara:problem:refused")
    assert BackupRecord.objects.count() == 1


@pytest.mark.parametrize("body", [{"plan": "weekly"}, {"sources": ["nothing"]}])
def test_what_does_not_exist_is_refused_with_what_does(program: Program, plan: BackupPlan, body: Any) -> None:
    refused = program.post("/backups", body)
    assert (refused.status_code, BackupRecord.objects.count()) == (409, 0)
    assert refused.json()["remedy"].startswith(("There are: nightly", "It has: files-"))


@pytest.mark.parametrize("level", [0, 2, 3])
def test_a_proof_is_asked_for_and_can_be_looked_at(program: Program, plan: BackupPlan, level: int) -> None:
    record = factories.record_of(plan)
    factories.artifact_of(record)
    answer = program.post(f"/backups/{record.name}/proofs", {"level": level})
    proof = ProofRun.objects.get()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v1/proofs/{proof.pk}")
    assert (proof.level, proof.state, proof.trigger) == (level, "queued", "manual")
    assert program.get(f"/proofs/{proof.pk}").json() == answer.json()


def test_a_drill_needs_the_right_to_drill(root: User, plan: BackupPlan) -> None:
    record = factories.record_of(plan)
    owner = User.objects.create_user("olga")
    rights = Permission.objects.filter(codename__in=["run_backup", "verify_backup", "drill_backup"])
    owner.user_permissions.set(rights)
    program = Program(token_for(owner, "backups:run")[1])
    owner.user_permissions.set(rights.exclude(codename="drill_backup"))
    assert program.post(f"/backups/{record.name}/proofs", {"level": 3}).status_code == 403
    assert program.post(f"/backups/{record.name}/proofs", {"level": 2}).status_code == 202
    assert list(ProofRun.objects.values_list("level", flat=True)) == [2]


def test_backups_are_listed_with_their_proof(program: Program, plan: BackupPlan) -> None:
    records = [factories.record_of(plan) for _ in range(3)]
    factories.artifact_of(records[2], l0_at=factories.NOW, l1_at=factories.NOW)
    factories.record_of(plan, state="deleted")
    listed = program.get("/backups?plan=nightly").json()["items"]
    assert [one["name"] for one in listed] == [record.name for record in reversed(records)]
    assert [one["proof_level"] for one in listed] == [1, None, None]
    assert program.get(f"/backups/{records[2].name}").json() == listed[0]
    assert len(program.get("/backups?state=deleted").json()["items"]) == 1


@pytest.mark.usefixtures("roles_are_known")
def test_a_list_takes_the_same_queries_however_long_it_is(
    program: Program, plan: BackupPlan, django_assert_num_queries: Any
) -> None:
    program.get("/backups")
    for count in (1, 8):
        for _ in range(count):
            factories.artifact_of(factories.record_of(plan))
        with django_assert_num_queries(4):  # token, roles, records, artifacts
            program.get("/backups")
