"""Public keys from files: every kind, rotation, and files that change or cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from controlplane.identity import keys
from controlplane.identity.tokens import issue, verify
from controlplane.kernel import clock
from tests.identity.conftest import NOW, RSA_KEY, SECRET, payload, public_pem, refusal, sign

PAIRS = {
    "RS256": lambda: RSA_KEY,
    "PS256": lambda: RSA_KEY,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("algorithm", PAIRS)
def test_a_token_signed_with_a_private_key_is_verified_with_the_public_one(
    algorithm: str, settings: Any, key_file: Callable[[str, Any], Path]
) -> None:
    private = PAIRS[algorithm]()
    settings.ZANTARA_JWT_SECRET = None
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(key_file("issuer", private))]
    settings.ZANTARA_JWT_ALGORITHMS = [algorithm]
    assert verify(sign(payload(), private, algorithm), now=NOW).subject == "alice"
    assert verify(sign(payload(), private, algorithm, kid="issuer"), now=NOW).subject == "alice"
    assert refusal(sign(payload(), private, algorithm, kid="another")) == "unknown_key"
    if algorithm != "PS256":
        stranger = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else PAIRS[algorithm]()
        assert refusal(sign(payload(), stranger, algorithm)) == "signature"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_in_a_rotation_the_old_and_the_new_key_both_hold(
    algorithm: str, settings: Any, key_file: Callable[[str, Any], Path]
) -> None:
    old = PAIRS[algorithm]()
    new = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else PAIRS[algorithm]()
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = f"{key_file('2025', old)}, {key_file('2026', new)}"
    settings.ZANTARA_JWT_ALGORITHMS = ["HS256", algorithm]
    for private, name in ((old, "2025"), (new, "2026")):
        assert verify(sign(payload(), private, algorithm), now=NOW).subject == "alice"
        assert verify(sign(payload(), private, algorithm, kid=name), now=NOW).subject == "alice"
    assert refusal(sign(payload(), old, algorithm, kid="2026")) == "signature"
    assert verify(sign(payload()), now=NOW).subject == "alice"


def test_a_key_of_another_curve_or_kind_is_not_tried(settings: Any, key_file: Callable[[str, Any], Path]) -> None:
    settings.ZANTARA_JWT_SECRET = None
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(key_file("p384", ec.generate_private_key(ec.SECP384R1())))]
    settings.ZANTARA_JWT_ALGORITHMS = ["ES256", "RS256", "EdDSA"]
    assert refusal(sign(payload(), ec.generate_private_key(ec.SECP256R1()), "ES256")) == "unknown_key"
    assert refusal(sign(payload(), RSA_KEY, "RS256")) == "unknown_key"


@pytest.mark.usefixtures("no_pause_between_looks")
def test_a_key_file_that_changes_is_read_again(settings: Any, key_file: Callable[[str, Any], Path]) -> None:
    old, new = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    path = key_file("issuer", old)
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(path)]
    settings.ZANTARA_JWT_ALGORITHMS = ["EdDSA"]
    assert verify(sign(payload(), old, "EdDSA"), now=NOW).subject == "alice"
    # half written: the last good key stays
    path.write_bytes(public_pem(new)[:40])
    assert verify(sign(payload(), old, "EdDSA"), now=NOW).subject == "alice"
    path.unlink()
    assert verify(sign(payload(), old, "EdDSA"), now=NOW).subject == "alice"
    key_file("issuer", new)
    assert refusal(sign(payload(), old, "EdDSA")) == "signature"
    assert verify(sign(payload(), new, "EdDSA"), now=NOW).subject == "alice"


def test_files_are_looked_at_once_a_second_at_most(
    settings: Any, key_file: Callable[[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    moment = [100.0]
    fingerprint = keys._fingerprint
    monkeypatch.setattr(keys, "_fingerprint", lambda path: (looks.append(path), fingerprint(path))[1])
    monkeypatch.setattr(clock, "monotonic", lambda: moment[0])
    private = ed25519.Ed25519PrivateKey.generate()
    path = key_file("issuer", private)
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(path)]
    settings.ZANTARA_JWT_ALGORITHMS = ["EdDSA"]
    token = sign(payload(), private, "EdDSA")
    for _ in range(5):
        verify(token, now=NOW)
    assert looks == [path]
    moment[0] += 1.0
    verify(token, now=NOW)
    assert looks == [path, path]


def test_one_bad_key_file_refuses_its_own_tokens_and_no_others(
    settings: Any, key_file: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "bad.pem").write_text("not a key")
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [
        str(tmp_path / "bad.pem"), str(tmp_path / "absent.pem"), str(key_file("good", private))
    ]  # fmt: skip
    settings.ZANTARA_JWT_ALGORITHMS = ["HS256", "EdDSA"]
    assert verify(sign(payload(), private, "EdDSA"), now=NOW).subject == "alice"
    assert refusal(sign(payload(), private, "EdDSA", kid="bad")) == "unknown_key"
    assert verify(sign(payload()), now=NOW).subject == "alice"


@pytest.mark.usefixtures("no_pause_between_looks")
def test_a_secret_may_be_kept_in_a_file_and_be_replaced_there(settings: Any, tmp_path: Path) -> None:
    path = tmp_path / "jwt_secret"
    path.write_text(SECRET + "\n")
    settings.ZANTARA_JWT_SECRET = None
    settings.ZANTARA_JWT_SECRET_FILE = str(path)
    assert verify(sign(payload()), now=NOW).subject == "alice"
    replaced = "the next secret, again longer than 32 bytes"
    path.write_text(replaced)
    assert refusal(sign(payload())) == "signature"
    assert verify(issue("alice", "CEO", 60, now=NOW), now=NOW).subject == "alice"
    assert verify(sign(payload(), replaced), now=NOW).subject == "alice"
