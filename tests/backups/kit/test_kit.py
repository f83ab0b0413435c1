"""The recovery kit: what it holds, who can open it, and what it makes of a new machine."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from pathlib import Path

import pyrage
import pytest
from cryptography.fernet import Fernet

from backups import keys
from backups.errors import Damaged, NoIdentity
from backups.kit import install_kit, make_kit, open_kit
from backups.manifest import load_set
from backups.models import BackupRecord, StorageTarget
from backups.storage import open_target
from controlplane.kernel.env import Env
from controlplane.kernel.errors import Refused
from tests import needs

SECRET = "hunter2-hunter2"


@pytest.fixture
def bucket(db: None) -> StorageTarget:
    return StorageTarget.objects.create(
        name="far-away", kind="s3", endpoint_url="https://s3.example.org", bucket="sets", path_style=True,
        access_key_id="AKIA", secret_access_key=SECRET,
    )  # fmt: skip


@pytest.fixture
def kit_file(tmp_path: Path, bucket: StorageTarget, record: BackupRecord) -> Path:
    path = tmp_path / "kit"
    path.write_bytes(make_kit())
    return path


def recovery_identity() -> keys.Identity:
    return keys.identity_from_file(keys.recovery_key_file())


def test_a_kit_holds_what_a_new_machine_must_know(kit_file: Path, record: BackupRecord, settings: object) -> None:
    kit = open_kit(kit_file, recovery_identity())
    assert kit.fields_key == settings.ZANTARA_FIELDS_KEY  # type: ignore[attr-defined]
    assert {keys.key_id(keys.load_public_key(pem, "")) for pem in kit.trusted.values()} == set(keys.trusted_keys())
    assert {row["name"]: row["secret_access_key"] for row in kit.targets} == {"far-away": SECRET, "nearby": ""}
    assert keys.recovery_recipient() in kit.how_to
    assert "rebuild-catalogue" in kit.how_to
    assert record.name in kit.lines
    assert "age --decrypt" in kit.lines


def test_it_opens_with_stock_tools_and_never_holds_the_private_recovery_key(kit_file: Path, recovery: Path) -> None:
    age = needs.command("age", package="age")
    done = subprocess.run([age, "-d", "-i", recovery / "recovery_key.txt", kit_file], capture_output=True, check=True)
    with zipfile.ZipFile(io.BytesIO(done.stdout)) as archive:
        assert {"README.txt", "kit.json", "fields_key", "targets.json", "lines.txt"} <= set(archive.namelist())
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert SECRET.encode() in everything
    assert b"AGE-SECRET-KEY-1" not in everything.replace("AGE-SECRET-KEY-1…".encode(), b"")
    assert b"PRIVATE KEY" not in everything


def test_nobody_else_can_open_it(kit_file: Path) -> None:
    drill = keys.identity_from_file(keys.folder() / "drill_identity.txt")
    for identity in (drill, keys.Identity(pyrage.x25519.Identity.generate())):
        with pytest.raises(NoIdentity, match="not encrypted to this identity"):
            open_kit(kit_file, identity)
    assert SECRET.encode() not in kit_file.read_bytes()


def test_what_is_no_kit_is_told(kit_file: Path, tmp_path: Path) -> None:
    body = kit_file.read_bytes()
    to_recovery = keys.as_age((keys.recovery_recipient(),))
    for wrong in (b"", b"nonsense", body[:-1], body[:-50] + bytes([body[-50] ^ 1]) + body[-49:],
                  pyrage.encrypt(b"nonsense", to_recovery)):  # fmt: skip
        kit_file.write_bytes(wrong)
        with pytest.raises(Damaged):
            open_kit(kit_file, recovery_identity())
    with pytest.raises(Refused, match="cannot be read"):
        open_kit(tmp_path / "absent", recovery_identity())


def test_a_kit_shows_itself_nowhere(kit_file: Path) -> None:
    kit = open_kit(kit_file, recovery_identity())
    assert SECRET not in f"{kit!r} {kit}"


def test_on_another_machine_the_kit_makes_the_sets_readable(
    kit_file: Path, tmp_path: Path, record: BackupRecord, monkeypatch: pytest.MonkeyPatch, settings: object
) -> None:
    """A new data directory, with keys of its own; the rows are gone."""
    kit = open_kit(kit_file, recovery_identity())
    old_key = settings.ZANTARA_FIELDS_KEY  # type: ignore[attr-defined]
    new_key = Fernet.generate_key().decode()
    (tmp_path / "new/secrets").mkdir(parents=True)
    (tmp_path / "new/secrets/fields_key").write_text(new_key)
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(tmp_path / "new"))
    keys.ensure_keys()
    prefix = record.prefix
    record.proofs.all().delete()
    record.delete()
    from backups.models import BackupPlan

    BackupPlan.objects.all().delete()
    StorageTarget.objects.all().delete()

    installed = install_kit(kit, Env())

    assert (sorted(installed.added_targets), installed.present_targets) == (["far-away", "nearby"], ())
    assert installed.fields_key_added
    assert (tmp_path / "new/secrets/fields_key").read_text() == f"{new_key},{old_key}"
    assert (tmp_path / "new/secrets/fields_key").stat().st_mode & 0o777 == 0o600
    assert StorageTarget.objects.get(name="far-away").secret_access_key == SECRET
    assert load_set(open_target(StorageTarget.objects.get(name="nearby")), prefix).plan == "zantara"

    again = install_kit(kit, Env())
    assert (again.added_targets, again.fields_key_added) == ((), False)
    assert sorted(again.present_targets) == ["far-away", "nearby"]


def test_a_target_that_the_operator_changed_stays_as_it_is(kit_file: Path, bucket: StorageTarget) -> None:
    bucket.bucket = "another"
    bucket.save()
    installed = install_kit(open_kit(kit_file, recovery_identity()))
    assert sorted(installed.present_targets) == ["far-away", "nearby"]
    bucket.refresh_from_db()
    assert bucket.bucket == "another"


def test_a_key_that_the_environment_gives_is_not_changed_behind_its_back(
    kit_file: Path, tmp_path: Path, settings: object
) -> None:
    kit = open_kit(kit_file, recovery_identity())
    settings.ZANTARA_FIELDS_KEY = Fernet.generate_key().decode()  # type: ignore[attr-defined]
    (tmp_path / "new/secrets").mkdir(parents=True)
    env = Env({"ZANTARA_DATA_DIR": str(tmp_path / "new"), "ZANTARA_FIELDS_KEY": "x"})
    with pytest.raises(Refused, match="given by the environment"):
        install_kit(kit, env)


def test_a_target_that_makes_no_sense_is_told(kit_file: Path) -> None:
    from dataclasses import replace

    kit = open_kit(kit_file, recovery_identity())
    wrong = replace(kit, targets=[{**kit.targets[0], "name": "No Good Name"}])
    with pytest.raises(Refused, match=r"No Good Name makes no sense.*Add it by hand"):
        install_kit(wrong)


def test_a_later_format_says_so(tmp_path: Path, db: None) -> None:
    keys.ensure_keys()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("kit.json", json.dumps({"format": 2}))
    path = tmp_path / "kit"
    path.write_bytes(pyrage.encrypt(archive.getvalue(), keys.as_age((keys.recovery_recipient(),))))
    with pytest.raises(Refused, match=r"format 2.*newer version"):
        open_kit(path, recovery_identity())
