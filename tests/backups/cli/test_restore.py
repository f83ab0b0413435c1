"""``manage.py restore``: look, confirm, restore; and every way in which it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from backups.models import BackupPlan, BackupRecord, RestoreRecord

from .conftest import Call


@pytest.fixture
def saved(call: Call, plan: BackupPlan) -> BackupRecord:
    call("backup", "run", "--here")
    record = BackupRecord.objects.get()
    assert record.state == "committed", record.error
    return record


@pytest.fixture
def changed(saved: BackupRecord, tree: Path) -> Path:
    (tree / "app.env").write_text("MODE=broken\n")
    (tree / "new.txt").write_text("made after the backup\n")
    return tree


def confirmed(record: BackupRecord, key: str) -> tuple[str, ...]:
    return ("--confirm", record.name, "--reason", "the file was broken", "--here", "--identity", key)


def test_a_preview_says_what_would_happen_and_changes_nothing(
    call: Call, saved: BackupRecord, changed: Path, drill_key: str
) -> None:
    called = call("restore", "latest", "--part", "config", "--preview")
    assert called.code == 0, called.out
    assert called.out.startswith(f"{saved.name} of plan nightly; needs ")
    assert "\n  config (" in called.out
    assert "never proven" in called.out
    assert (changed / "app.env").read_text() == "MODE=broken\n"
    document = call("restore", saved.name, "--part", "config", "--preview", "--json").document
    assert (document["record"], document["may_begin"]) == (saved.name, True)
    assert [part["name"] for part in document["parts"]] == ["config"]
    assert not RestoreRecord.objects.exists()


def test_a_part_comes_back_and_the_command_shows_each_step(
    call: Call, saved: BackupRecord, changed: Path, drill_key: str
) -> None:
    called = call("restore", "latest", "--part", "config", *confirmed(saved, drill_key))
    assert called.code == 0, called.out + called.err
    row = RestoreRecord.objects.get()
    assert (row.state, row.reason, row.artifacts) == ("done", "the file was broken", ["config"])
    assert row.requested_by.endswith("(command line)")
    assert called.out.splitlines()[-1].startswith(f"✓ {row.name}: restored config")
    for step in ("preflight", "safety", "swap"):
        assert f"  ✓ {step}" in called.out
    assert (changed / "app.env").read_text() == "MODE=good\n"


def test_the_groups_choose_the_parts_where_none_are_named(
    call: Call, saved: BackupRecord, changed: Path, drill_key: str
) -> None:
    nothing = call("restore", "latest", "--preview")
    assert nothing.code == 2
    assert "With these options nothing is restored." in nothing.out
    chosen = call("restore", "latest", "--preview", "--configuration", "--json").document
    assert [part["name"] for part in chosen["parts"]] == ["config", "extra"]
    called = call("restore", "latest", "--configuration", *confirmed(saved, drill_key), "--json")
    assert (called.code, called.document["state"], called.document["parts"]) == (0, "done", ["config", "extra"])
    assert called.document["safety_record"] == RestoreRecord.objects.get().safety_record.name  # type: ignore[union-attr]


def test_live_data_are_replaced_only_with_the_name_and_a_reason(
    call: Call, saved: BackupRecord, changed: Path, drill_key: str
) -> None:
    called = call("restore", "latest", "--part", "config", "--here", "--identity", drill_key)
    assert (called.code, called.err) == (
        2, f"A restore replaces live data. Look at --preview, then add --confirm {saved.name}\n",
    )  # fmt: skip
    called = call("restore", "latest", "--part", "config", "--confirm", saved.name, "--here", "--identity", drill_key)
    assert called.code == 2
    assert called.err.startswith("A restore wants a reason, for the record.")
    assert not RestoreRecord.objects.exists()
    assert (changed / "app.env").read_text() == "MODE=broken\n"


def test_wrong_names_are_refused_with_those_that_exist(call: Call, saved: BackupRecord) -> None:
    assert call("restore", "nope", "--preview").err == (
        f"There is no restore point named nope. The newest: {saved.name}.\n"
    )
    wrong = call("restore", "latest", "--part", "conf", "--preview")
    assert (wrong.code, wrong.err) == (2, f"{saved.name} has no part named conf. It has: config, extra.\n")
    service = call("restore", "latest", "--part", "config", "--service", "nope", "--preview")
    assert service.code == 2
    assert "Nothing here can stop the service 'nope'." in service.out
    identity = call("restore", "latest", "--part", "config", "--identity", "x")
    assert identity.err == "--identity is for work in this process. Add --here, or leave --identity out.\n"


def test_without_an_identity_it_is_not_possible(call: Call, saved: BackupRecord, changed: Path, tmp_path: Path) -> None:
    words = ("--part", "config", "--confirm", saved.name, "--reason", "r", "--here")
    called = call("restore", "latest", *words)
    assert called.code == 4
    assert "not possible: no identity" in called.out
    assert call("restore", "latest", *words, "--identity", str(tmp_path / "none")).code == 4
    assert not RestoreRecord.objects.exists()


def test_what_goes_wrong_is_put_back_and_said(
    call: Call, saved: BackupRecord, changed: Path, drill_key: str, tmp_path: Path
) -> None:
    part = next((tmp_path / "store").rglob("config/part-00001.age"))
    body = bytearray(part.read_bytes())
    body[-1] ^= 1
    part.chmod(0o600)
    part.write_bytes(body)
    called = call("restore", saved.name, "--part", "config", *confirmed(saved, drill_key), "--json")
    assert (called.code, called.document["state"]) == (1, "rolled_back")
    assert called.document["error"]
    assert (changed / "app.env").read_text() == "MODE=broken\n"
    assert (changed / "new.txt").exists()
