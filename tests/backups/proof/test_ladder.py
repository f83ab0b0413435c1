"""A climb of each level on a real set: what it learns when all is well, and what each kind of damage comes to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from backups import keys, manifest
from backups.errors import StorageUnavailable
from backups.models import BackupRecord, ProofEvent, StorageTarget
from backups.proof import request_proof, run_proof
from backups.proof.requests import request_cancel
from backups.proof.scratch import scratch_root
from backups.sources.base import Finding, kinds
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused, Unavailable
from controlplane.notifications.models import Message

from .seeing import artifact, flipped, folder, proven, said, spoil

pytestmark = pytest.mark.usefixtures("identity")

NAMES = ["configuration", "uploads"]


def levels(record: BackupRecord, name: str = "uploads") -> list[bool]:
    row = artifact(record, name)
    return [at is not None for at in (row.l0_at, row.l1_at, row.l2_at, row.l3_at)]


@pytest.mark.parametrize(
    ("level", "known"),
    [
        (0, [True, False, False, False]),
        (1, [True, True, False, False]),
        (2, [True, True, True, False]),
        (3, [True] * 4),
    ],
)
def test_a_sound_set_passes_at_every_level(record: BackupRecord, level: int, known: list[bool]) -> None:
    before = clock.now()
    proof = proven(record, level)
    assert (proof.state, proof.error, proof.attempt) == ("passed", "", 1)
    assert {finding["status"] for finding in proof.findings} == {"pass"}
    assert sorted({finding["artifact"] for finding in proof.findings}) == NAMES
    for name in NAMES:
        row = artifact(record, name)
        assert levels(record, name) == known
        assert row.proof_level == level
        assert (row.damaged_at, row.damage) == (None, "")
        assert (row.restore_seconds is not None) == (level == 3)
        at = getattr(row, f"l{level}_at")
        assert before <= at <= clock.now()
    assert list(ProofEvent.objects.filter(subject=proof).values_list("to_state", flat=True)) == [
        "queued", "running", "passed",
    ]  # fmt: skip
    assert not Message.objects.filter(kind="proof_failed").exists()
    assert not scratch_root().exists() or list(scratch_root().iterdir()) == []


def test_the_row_says_how_much_was_read(record: BackupRecord) -> None:
    stored = sum(part["size"] for name in NAMES for part in artifact(record, name).parts)
    assert proven(record, 1).read_bytes == stored
    assert proven(record, 2).read_bytes == sum(artifact(record, name).plain_bytes for name in NAMES)
    assert proven(record, 0).read_bytes == 0


def test_only_the_parts_that_are_wanted_are_climbed(record: BackupRecord) -> None:
    proof = proven(record, 2, only_artifacts=["uploads"])
    assert {finding["artifact"] for finding in proof.findings} == {"uploads"}
    assert levels(record, "configuration") == [False] * 4


def spoil_part(change: Callable[[bytes], bytes]) -> Callable[[BackupRecord], None]:
    return lambda record: spoil(folder(record) / "uploads/part-00001.age", change)


DAMAGE: dict[str, tuple[int, Callable[[BackupRecord], None], str]] = {
    "a part is missing": (0, lambda r: (folder(r) / "uploads/part-00001.age").unlink(), "missing from the store"),
    "a part is cut": (0, spoil_part(lambda body: body[:-1]), "should have"),
    "a part is longer": (0, spoil_part(lambda body: body + b"x"), "should have"),
    "a bit is flipped": (1, spoil_part(flipped), "was changed"),
    "a bit of the header is flipped": (1, spoil_part(lambda body: flipped(body, 30)), "was changed"),
    "the expectations are missing": (
        0, lambda r: (folder(r) / "uploads/expectations.json.zst.age").unlink(), "missing from the store",
    ),
    "the expectations are changed": (
        1, lambda r: spoil(folder(r) / "uploads/expectations.json.zst.age", flipped), "was changed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_damage_is_found_at_its_level_and_above_and_told(record: BackupRecord, name: str, level: int) -> None:
    found_at, spoil_it, words = DAMAGE[name]
    assert proven(record, 3).state == "passed"
    spoil_it(record)
    proof = proven(record, level)
    row = artifact(record)
    if level < found_at:
        assert (proof.state, row.damaged_at) == ("passed", None)
        return
    assert proof.state == "failed"
    assert "uploads" in proof.error
    assert [words in text for text in said(proof, "fail")] == [True]
    assert row.damaged_at is not None
    assert words in row.damage
    assert row.proof_level is None
    assert artifact(record, "configuration").proof_level == 3
    message = Message.objects.get(kind="proof_failed")
    assert record.name in message.title
    assert words in message.body


def test_damage_is_taken_back_by_a_climb_that_would_have_found_it(record: BackupRecord) -> None:
    path = folder(record) / "uploads/part-00001.age"
    sound = path.read_bytes()
    spoil(path, flipped)
    assert proven(record, 2).state == "failed"
    path.write_bytes(sound)
    assert proven(record, 0).state == "passed"
    assert artifact(record).damaged_at is not None
    assert proven(record, 1).state == "passed"
    assert artifact(record).damaged_at is not None, "it was L2 that found it"
    assert proven(record, 2).state == "passed"
    assert (artifact(record).damaged_at, artifact(record).damage) == (None, "")


def test_a_swapped_manifest_damages_every_artifact(record: BackupRecord) -> None:
    """That of another night, authentic and committed."""
    document = (folder(record) / "manifest.json").read_bytes()
    body = manifest.open_signed(document, keys.trusted_keys())
    other = manifest.sign(manifest.from_dict(manifest.to_dict(body) | {"producer": "zantara 0.0.1"}))
    (folder(record) / "manifest.json").write_bytes(other)
    proof = proven(record, 0)
    assert (proof.state, "not the one that was committed" in proof.error) == ("failed", True)
    (folder(record) / "COMMIT").write_bytes(manifest.commit_body(other))
    proof = proven(record, 0)
    assert (proof.state, "not the one that was committed" in proof.error) == ("failed", True)
    assert [artifact(record, name).damaged_at is not None for name in NAMES] == [True, True]


@pytest.mark.parametrize("name", ["COMMIT", "manifest.json"])
def test_a_set_without_commit_or_manifest_proves_nothing(record: BackupRecord, name: str) -> None:
    (folder(record) / name).unlink()
    proof = proven(record, 3)
    assert proof.state == "failed"
    assert artifact(record).damaged_at is not None


def test_a_key_that_is_not_trusted_any_more_is_no_damage(record: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backups.proof.run.keys.trusted_keys", dict)
    proof = proven(record, 1)
    assert proof.state == "unknown"
    assert "ZANTARA_MANIFEST_TRUSTED_KEY_FILES" in proof.error
    assert artifact(record).damaged_at is None


# --- nothing learned -----------------------------------------------------------------------------


def away(*_: Any, **__: Any) -> Any:
    raise StorageUnavailable("The store did not answer (503).")


@pytest.mark.parametrize("call", ["stat", "get", "open_reader"])
@pytest.mark.parametrize("level", [1, 3])
def test_a_store_that_is_away_is_unknown_and_never_damage(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch, call: str, level: int
) -> None:
    monkeypatch.setattr(f"backups.storage.local.LocalStorage.{call}", away)
    proof = proven(record, level)
    assert proof.state == "unknown"
    assert "503" in proof.error
    assert said(proof, "fail") == []
    assert artifact(record).damaged_at is None
    assert not Message.objects.filter(kind="proof_failed").exists()


def test_a_disk_that_is_not_mounted_is_unknown(record: BackupRecord, tmp_path: Path) -> None:
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    (tmp_path / "store").mkdir()
    proof = proven(record, 0)
    assert proof.state == "unknown"
    assert artifact(record).damaged_at is None


def test_a_target_that_makes_no_sense_is_unknown(record: BackupRecord) -> None:
    target = StorageTarget.objects.get(pk=record.target_id)
    target.path = ""
    target.save()
    assert proven(record, 0).state == "unknown"


@pytest.mark.parametrize("level", [2, 3])
def test_without_an_identity_it_is_not_possible_and_nothing_is_damaged(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    monkeypatch.delenv("ZANTARA_DRILL_IDENTITY_FILE")
    proof = proven(record, level)
    assert proof.state == "not_possible"
    assert "ZANTARA_DRILL_IDENTITY_FILE" in proof.error
    assert levels(record) == [False] * 4
    assert artifact(record).damaged_at is None
    assert proven(record, 1).state == "passed"


def test_an_identity_of_somebody_else_is_not_possible(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pyrage

    (tmp_path / "stranger").write_text(f"{pyrage.x25519.Identity.generate()}\n")
    monkeypatch.setenv("ZANTARA_DRILL_IDENTITY_FILE", str(tmp_path / "stranger"))
    assert proven(record, 2).state == "not_possible"
    assert artifact(record).damaged_at is None


def test_a_scratch_server_that_cannot_be_had_is_unknown_and_the_others_are_drilled(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = kinds.get("files")
    drill = kind.drill

    def sometimes(self: Any, *args: Any) -> Any:
        if self.name == "configuration":
            raise Unavailable("There is no server here.", remedy="Install it.")
        return drill(self, *args)

    monkeypatch.setattr(kind, "drill", sometimes)
    proof = proven(record, 3)
    assert proof.state == "unknown"
    assert "Install it" in proof.error
    assert levels(record, "configuration") == [False] * 4
    assert levels(record, "uploads") == [True] * 4


def test_a_kind_that_breaks_says_nothing_of_what_is_stored(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds.get("files"), "inspect", lambda *_: 1 / 0)
    proof = proven(record, 2)
    assert (proof.state, "ZeroDivisionError" in proof.error) == ("unknown", True)
    assert artifact(record).damaged_at is None


def test_a_proof_that_takes_too_long_ends_and_does_not_go_on_with_the_next(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def too_long(self: Any, *_: Any) -> Any:
        asked.append(self.name)
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(kinds.get("files"), "inspect", too_long)
    proof = proven(record, 2)
    assert (proof.state, asked) == ("unknown", ["configuration"])
    assert "longer than a worker may take" in proof.error


def test_damage_counts_even_where_the_rest_could_not_be_learned(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder(record) / "configuration/part-00001.age", flipped)
    from backups.storage.local import LocalStorage

    really = LocalStorage.open_reader

    def sometimes(self: Any, key: str, **options: Any) -> Any:
        return away() if "/uploads/" in key else really(self, key, **options)

    monkeypatch.setattr(LocalStorage, "open_reader", sometimes)
    proof = proven(record, 1)
    assert proof.state == "failed"
    assert artifact(record, "configuration").damaged_at is not None
    assert artifact(record, "uploads").damaged_at is None


# --- drills ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda files: files.pop("notes.txt"), "notes.txt"),
        (lambda files: files.update({"never.txt": list(files["notes.txt"])}), "never.txt"),
        (
            lambda files: files.update(
                {"notes.txt": ["0" * 64 if len(str(x)) == 64 else x for x in files["notes.txt"]]}
            ),
            "notes.txt",
        ),
    ],
    ids=["added", "missing", "changed"],
)
def test_one_file_more_less_or_other_fails_a_drill(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], Any], word: str
) -> None:
    """What is restored is compared with what was captured, file by file: here the list is the one that is off."""
    from backups.proof import ladder

    really = ladder.get_expectations

    def off_by_one(*args: Any) -> dict[str, Any]:
        wanted = really(*args)
        change(wanted["entries"])
        return wanted

    monkeypatch.setattr(ladder, "get_expectations", off_by_one)
    proof = proven(record, 3, only_artifacts=["uploads"])
    assert proof.state == "failed"
    assert any(word in text for text in said(proof, "fail"))
    row = artifact(record)
    assert row.damage.startswith("L3: ")
    assert row.restore_seconds is None


def test_a_consumer_that_stops_early_does_not_hide_what_follows(
    record: BackupRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds.get("files"), "inspect", lambda *_: [Finding("pass", "I looked at nothing.")])
    spoil(folder(record) / "uploads/part-00001.age", flipped)
    assert proven(record, 2).state == "failed"


def test_warnings_do_not_fail_a_proof(record: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.get("files"), "inspect", lambda *_: [Finding("warn", "It was changed while read.")])
    proof = proven(record, 2)
    assert proof.state == "passed"
    assert said(proof, "warn") == [f"{name}: It was changed while read." for name in NAMES]


# --- sampling, asking, cancelling --------------------------------------------------------------------------


def test_scheduled_hashing_samples_and_remembers(record: BackupRecord) -> None:
    from backups.proof.requests import parts_of

    long_ago = (clock.now() - timedelta(days=31)).isoformat()
    row = artifact(record)
    row.coverage = {"part-00001.age": long_ago}
    row.save()
    proof = proven(record, 1, trigger="schedule")
    assert proof.state == "passed"
    assert proof.read_bytes == artifact(record, "uploads").parts[0]["size"]
    assert artifact(record, "uploads").coverage["part-00001.age"] > long_ago
    assert artifact(record, "configuration").coverage == {}
    assert [levels(record, name) for name in NAMES] == [[True, False, False, False], [True, True, False, False]]
    record = BackupRecord.objects.get(pk=record.pk)
    assert {part.artifact: part.hashed_at == record.committed_at for part in parts_of(record)} == {
        "configuration": True, "uploads": False,
    }  # fmt: skip


def test_the_age_of_hashing_is_that_of_the_part_seen_longest_ago(record: BackupRecord) -> None:
    row = artifact(record)
    row.parts = [*row.parts, {"name": "part-00002.age", "size": 1, "sha256": "0" * 64}]
    earlier = clock.now() - timedelta(days=3)
    row.coverage = {"part-00002.age": earlier.isoformat()}
    row.save()
    assert proven(record, 1).state == "passed"
    assert artifact(record).l1_at == earlier


def test_the_same_request_twice_is_one(record: BackupRecord) -> None:
    first = request_proof(record, level=1, trigger="manual", requested_by="ada")
    assert request_proof(record, level=1, trigger="schedule") == first
    assert request_proof(record, level=2, trigger="schedule") != first


def test_what_cannot_be_proven_is_refused(record: BackupRecord) -> None:
    with pytest.raises(Refused, match=r"has no nothing.*configuration, uploads"):
        request_proof(record, level=0, trigger="manual", only_artifacts=["nothing"])
    record.state = "failed"
    with pytest.raises(Refused, match="nothing to prove"):
        request_proof(record, level=0, trigger="manual")


def test_two_workers_carry_out_one_proof_once(record: BackupRecord) -> None:
    proof = request_proof(record, level=0, trigger="manual")
    assert run_proof(proof.pk, owner="one") is not None
    assert run_proof(proof.pk, owner="two") is None
    assert run_proof(10**6, owner="two") is None


def test_a_waiting_proof_is_cancelled_at_once(record: BackupRecord) -> None:
    proof = request_proof(record, level=3, trigger="manual")
    assert request_cancel(proof, actor="ada")
    assert proof.state == "cancelled"
    assert run_proof(proof.pk, owner="one") is None
    assert not request_cancel(proof, actor="ada")


def test_a_running_proof_stops_soon(record: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    from backups.proof import meter

    monkeypatch.setattr(meter, "PUBLISH_SECONDS", 0.0)
    kind = kinds.get("files")
    inspect = kind.inspect

    def cancel_then_inspect(self: Any, chunks: Any, expectations: Any) -> Any:
        assert request_cancel(type(proof).objects.get(pk=proof.pk), actor="ada")
        return inspect(self, chunks, expectations)

    monkeypatch.setattr(kind, "inspect", cancel_then_inspect)
    proof = request_proof(record, level=2, trigger="manual")
    ended = run_proof(proof.pk, owner="one")
    assert ended is not None
    assert ended.state == "cancelled"
    assert artifact(record).damaged_at is None


def test_a_set_that_is_gone_meanwhile_is_not_called_damaged(record: BackupRecord) -> None:
    proof = request_proof(record, level=0, trigger="manual")
    BackupRecord.objects.filter(pk=record.pk).update(state="deleting")
    ended = run_proof(proof.pk, owner="one")
    assert ended is not None
    assert (ended.state, artifact(record).damaged_at) == ("cancelled", None)


def test_no_finding_holds_a_secret(record: BackupRecord) -> None:
    proof = proven(record, 3)
    text = json.dumps([proof.findings, proof.error])
    assert "AGE-SECRET-KEY" not in text
