"""Keys are made once, private before public, and the private recovery key may be moved away."""

from __future__ import annotations

import pickle
import stat
import subprocess
import threading
from pathlib import Path

import pyrage
import pytest

from backups import keys
from backups.errors import NoIdentity
from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError
from tests import needs

NAMES = [
    "drill_identity.pub", "drill_identity.txt", "manifest_signing_key.pem", "manifest_signing_key.pub",
    "recovery_key.pub", "recovery_key.txt",
]  # fmt: skip


def env_of(folder: Path, **more: str) -> Env:
    return Env({"ZANTARA_DATA_DIR": str(folder), **more})


@pytest.fixture
def env(tmp_path: Path) -> Env:
    found = env_of(tmp_path)
    assert keys.ensure_keys(found) == ["recovery_key", "drill_identity", "manifest_signing_key"]
    return found


def test_bootstrap_makes_six_files_of_which_the_private_ones_are_private(env: Env, tmp_path: Path) -> None:
    files = sorted((tmp_path / "secrets").iterdir())
    assert [file.name for file in files] == NAMES
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files}
    assert {name: mode for name, mode in modes.items() if not name.endswith(".pub")} == {
        "drill_identity.txt": 0o600, "manifest_signing_key.pem": 0o600, "recovery_key.txt": 0o600,
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_the_second_time_nothing_changes(env: Env, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()}
    assert keys.ensure_keys(env) == []
    assert {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()} == before


def test_a_private_key_that_was_moved_away_is_not_made_anew(env: Env, tmp_path: Path) -> None:
    public = keys.recovery_recipient(env)
    assert keys.recovery_key_is_here(env)
    (tmp_path / "secrets/recovery_key.txt").rename(tmp_path / "safe.txt")
    (tmp_path / "secrets/manifest_signing_key.pem").unlink()
    assert keys.ensure_keys(env) == []
    assert not keys.recovery_key_is_here(env)
    assert keys.recovery_recipient(env) == public
    assert keys.identity_from_file(tmp_path / "safe.txt").public == (public,)


def test_a_public_half_that_is_missing_is_that_of_the_private_one(env: Env, tmp_path: Path) -> None:
    """A crash between the two files must not lead to sets that nobody can open."""
    public, key_ids = keys.recovery_recipient(env), set(keys.trusted_keys(env))
    for name in ("recovery_key.pub", "manifest_signing_key.pub"):
        (tmp_path / "secrets" / name).unlink()
    assert keys.ensure_keys(env) == []
    assert keys.recovery_recipient(env) == public
    assert set(keys.trusted_keys(env)) == key_ids


def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    env = env_of(tmp_path)
    start = threading.Barrier(4)

    def make() -> None:
        start.wait()
        keys.ensure_keys(env)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.name for file in (tmp_path / "secrets").iterdir()) == NAMES
    identity = keys.identity_from_file(tmp_path / "secrets/recovery_key.txt")
    assert identity.public == (keys.recovery_recipient(env),)
    assert keys.key_id(keys.signing_key(env).public_key()) in keys.trusted_keys(env)


def test_age_reads_the_identity_files(env: Env, tmp_path: Path) -> None:
    keygen = needs.command("age-keygen", package="age")
    for name in ("recovery_key", "drill_identity"):
        file = tmp_path / "secrets" / f"{name}.txt"
        done = subprocess.run([keygen, "-y", str(file)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == (tmp_path / "secrets" / f"{name}.pub").read_text().strip()
        assert f"# public key: {done.stdout.strip()}\n" in file.read_text()


def test_an_identity_file_of_age_keygen_is_read(tmp_path: Path) -> None:
    keygen = needs.command("age-keygen", package="age")
    done = subprocess.run([keygen, "-o", str(tmp_path / "k")], capture_output=True, text=True, check=True)
    assert keys.identity_from_file(tmp_path / "k").public[0] in done.stderr


def test_a_set_is_for_the_recovery_key_the_drill_and_the_plans_own(env: Env) -> None:
    own = str(pyrage.x25519.Identity.generate().to_public())
    found = keys.recipients(f"\n {own} \n\n{own}\n", env)
    assert found == (keys.recovery_recipient(env), keys.drill_recipient(env), own)
    assert len(keys.recipients("", env)) == 2


def test_without_a_recovery_key_nothing_is_encrypted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no recovery key.*bootstrap"):
        keys.recipients("", env_of(tmp_path))


def test_keys_from_the_environment_come_first_and_none_are_made(tmp_path: Path) -> None:
    one, two = (str(pyrage.x25519.Identity.generate().to_public()) for _ in range(2))
    env = env_of(tmp_path, ZANTARA_RECOVERY_RECIPIENT=one, ZANTARA_DRILL_RECIPIENT=two)
    assert keys.ensure_keys(env) == ["manifest_signing_key"]
    assert keys.recipients("", env) == (one, two)
    assert not keys.recovery_key_is_here(env)


@pytest.mark.parametrize(
    "text",
    ["nonsense", "age1", "age1" + "q" * 58, "ssh-ed25519 AAAA", str(pyrage.x25519.Identity.generate())],
    ids=["word", "prefix", "no checksum", "ssh", "a private one"],
)
def test_what_is_no_public_key_is_refused_and_not_shown(env: Env, text: str) -> None:
    with pytest.raises(ConfigurationError, match="not an age public key") as caught:
        keys.recipients(text, env)
    assert text not in str(caught.value) or text == "age1"


def test_only_the_environment_names_the_drill_identity(env: Env, tmp_path: Path) -> None:
    with pytest.raises(NoIdentity, match="ZANTARA_DRILL_IDENTITY_FILE"):
        keys.drill_identity(env)  # though the file lies where bootstrap put it
    file = tmp_path / "secrets/drill_identity.txt"
    found = keys.drill_identity(env_of(tmp_path, ZANTARA_DRILL_IDENTITY_FILE=str(file)))
    assert found.public == (keys.drill_recipient(env),)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"AGE-SECRET-KEY-1nonsense\n", b"\xff\xfe", b"secret words"])
def test_what_is_no_identity_is_said_without_its_text(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "k"
    file.write_bytes(content)
    with pytest.raises(NoIdentity, match="no age identity file") as caught:
        keys.identity_from_file(file)
    assert "nonsense" not in str(caught.value)
    assert "secret words" not in str(caught.value)
    with pytest.raises(NoIdentity, match="cannot be read"):
        keys.identity_from_file(tmp_path / "absent")


def test_an_identity_shows_itself_nowhere(env: Env, tmp_path: Path) -> None:
    file = tmp_path / "secrets/drill_identity.txt"
    identity = keys.identity_from_file(file)
    assert "AGE-SECRET" not in f"{identity!r} {identity!s} {identity.public}"
    with pytest.raises(TypeError):
        pickle.dumps(identity)


def test_signatures_of_three_kinds_of_keys_are_trusted(env: Env, tmp_path: Path) -> None:
    own = keys.key_id(keys.signing_key(env).public_key())
    other, third = env_of(tmp_path / "other"), env_of(tmp_path / "third")
    keys.ensure_keys(other)
    keys.ensure_keys(third)
    (tmp_path / "secrets/trusted").mkdir()
    (tmp_path / "secrets/trusted/x.pub").write_bytes((tmp_path / "other/secrets/manifest_signing_key.pub").read_bytes())
    more = str(tmp_path / "third/secrets/manifest_signing_key.pub")
    trusted = keys.trusted_keys(env_of(tmp_path, ZANTARA_MANIFEST_TRUSTED_KEY_FILES=more))
    expected = {own} | {keys.key_id(keys.signing_key(e).public_key()) for e in (other, third)}
    assert set(trusted) == expected
    assert len(expected) == 3


def test_a_signing_key_is_named_by_the_environment(env: Env, tmp_path: Path) -> None:
    elsewhere = tmp_path / "signing.pem"
    (tmp_path / "secrets/manifest_signing_key.pem").rename(elsewhere)
    with pytest.raises(ConfigurationError, match=r"cannot be read.*bootstrap"):
        keys.signing_key(env)
    named = env_of(tmp_path / "new", ZANTARA_MANIFEST_SIGNING_KEY_FILE=str(elsewhere))
    assert keys.ensure_keys(named) == ["recovery_key", "drill_identity"]
    assert list(keys.trusted_keys(named)) == [keys.key_id(keys.signing_key(named).public_key())]


def test_files_that_are_no_keys_are_told(env: Env, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("-----BEGIN NOTHING-----")
    with pytest.raises(ConfigurationError, match="no Ed25519 private key"):
        keys.signing_key(env_of(tmp_path, ZANTARA_MANIFEST_SIGNING_KEY_FILE=str(wrong)))
    with pytest.raises(ConfigurationError, match="no Ed25519 public key"):
        keys.trusted_keys(env_of(tmp_path, ZANTARA_MANIFEST_TRUSTED_KEY_FILES=str(wrong)))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        keys.trusted_keys(env_of(tmp_path, ZANTARA_MANIFEST_TRUSTED_KEY_FILES=str(tmp_path / "absent")))


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        keys.ensure_keys(env_of(tmp_path / "file"))
