"""``manage.py token``: prints a token and nothing else, without a database and without Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from controlplane.identity.tokens import verify
from tests.identity.conftest import public_pem

ROOT = Path(__file__).parents[2]


def test_it_prints_the_token_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("token", "--role", "CEO", "--subject", "alice", "--ttl", "15m")
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("\n")
    claims = verify(out.removesuffix("\n"))
    assert (claims.subject, claims.roles) == ("alice", ("CEO",))
    assert (claims.expires_at - claims.issued_at).total_seconds() == 900


def test_an_hour_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("token", "--role", "AI Bridge/Tech Lead", "--subject", "alice")
    claims = verify(capsys.readouterr().out.strip())
    assert (claims.expires_at - claims.issued_at).total_seconds() == 3600


def test_an_unknown_role_is_allowed_with_a_warning_that_names_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_command("token", "--role", "Partner", "--subject", "alice")
    out, err = capsys.readouterr()
    assert verify(out.strip()).roles == ("Partner",)
    assert "'Partner' is not known" in err
    assert "AI Bridge/Tech Lead, CEO, Setup Team Lead, External, default" in err


@pytest.mark.parametrize(
    "arguments",
    [("--role", "CEO", "--subject", ""), ("--role", "CEO", "--subject", "  "), ("--role", " ", "--subject", "alice"),
     ("--role", "CEO", "--subject", "alice", "--ttl", "0"), ("--role", "CEO", "--subject", "alice", "--ttl", "366d"),
     ("--role", "CEO", "--subject", "alice", "--ttl=-1h"), ("--role", "CEO", "--subject", "alice", "--ttl", "soon"),
     ("--role", "CEO"), ("--subject", "alice")],
)  # fmt: skip
def test_what_makes_no_token_is_refused_and_nothing_is_printed(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError):
        call_command("token", *arguments)
    assert capsys.readouterr().out == ""


def test_an_installation_with_public_keys_alone_says_what_to_do(
    settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    path = tmp_path / "issuer.pem"
    path.write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate()))
    settings.ZANTARA_JWT_SECRET = None
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(path)]
    settings.ZANTARA_JWT_ALGORITHMS = ["EdDSA"]
    with pytest.raises(CommandError, match="Issue tokens where the private key is"):
        call_command("token", "--role", "CEO", "--subject", "alice")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("role", ["CEO", "Partner"])
def test_it_works_without_redis_and_without_a_database(role: str, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("secret_key", "jwt_secret", "limits_secret"):
        (secrets / name).write_text(f"{name} of this test alone, 32 bytes and more")
        (secrets / name).chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZANTARA_")}
    environment |= {"ZANTARA_DATA_DIR": str(tmp_path), "ZANTARA_REDIS_URL": f"unix://{tmp_path}/nobody.sock?db=0"}
    done = subprocess.run(
        [sys.executable, "manage.py", "token", "--role", role, "--subject", "alice"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stdout.count(".") == 2
    assert ("is not known" in done.stderr) is (role == "Partner")
    if role == "CEO":  # only a role that the seed lacks is asked of the database
        assert not (tmp_path / "controlplane.sqlite3").exists()
