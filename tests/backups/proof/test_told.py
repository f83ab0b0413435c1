"""What a proof found is told, however it ends; and a proof that compared nothing is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from backups import keys
from backups.errors import NoIdentity
from backups.models import ProofRun
from backups.proof.ladder import Ladder
from backups.proof.requests import request_proof
from backups.proof.run import run_proof
from backups.sources.files import FilesSource
from backups.storage import open_target
from controlplane.notifications.models import Message
from tests.backups import factories

pytestmark = pytest.mark.django_db(transaction=True)


def proven(record: object, level: int) -> ProofRun:
    proof = run_proof(request_proof(record, level=level, trigger="manual").pk, owner="test")  # type: ignore[arg-type]
    assert proof is not None
    return proof


def test_damage_is_told_although_the_identity_does_not_open_the_next_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = factories.files_plan(tmp_path)
    plan.sources.add(factories.files_source(tmp_path / "second", name="zz-second"))
    record = factories.run_now(plan)
    first = record.artifacts.order_by("position").first()
    assert first is not None
    storage = open_target(record.target)
    assert storage.delete([f"{record.prefix}/{first.name}/part-00001.age"]) == {}
    monkeypatch.setattr(keys, "drill_identity", lambda env=None: keys.identity_from_file(keys.recovery_key_file()))

    def foreign(*_: object) -> None:
        raise NoIdentity("It was not encrypted to this identity.")

    monkeypatch.setattr(Ladder, "_readable", foreign)

    proof = proven(record, 2)

    assert proof.state == "failed"
    assert first.name in proof.error
    assert "not encrypted" in proof.error
    assert Message.objects.filter(kind="proof_failed").count() == 1


def test_a_kind_that_compares_nothing_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = factories.committed_set(tmp_path)
    monkeypatch.setattr(keys, "drill_identity", lambda env=None: keys.identity_from_file(keys.recovery_key_file()))
    monkeypatch.setattr(FilesSource, "drill", lambda *_: [])

    proof = proven(record, 3)

    artifact = record.artifacts.get()
    assert proof.state == "unknown"
    assert "nothing was compared" in proof.error
    assert (artifact.l3_at, artifact.damaged_at) == (None, None)
