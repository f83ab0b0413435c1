"""Helpers of the identity tests: forged tokens, key files, requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from controlplane.identity import config, keys, roles, tokens
from controlplane.identity.tokens import TokenRefused, verify
from controlplane.kernel.errors import NotAuthentic

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "a secret of this test, longer than 32 bytes"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(autouse=True)
def plain_identity(settings: Any) -> Iterator[None]:
    """Each test starts from a known secret, no proxies, the seed's roles, and leaves no listener behind."""
    settings.ZANTARA_JWT_SECRET = SECRET
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = []
    settings.ZANTARA_JWT_ALGORITHMS = ["HS256"]
    settings.ZANTARA_TRUSTED_PROXIES = []
    source, listeners = roles._source, list(tokens.on_operation)
    roles.set_role_source(None)
    tokens._ring.cache_clear()
    yield
    roles.set_role_source(source)
    tokens.on_operation[:] = listeners
    tokens._ring.cache_clear()
    config.forget()


@pytest.fixture
def operations() -> list[tuple[str, str, str]]:
    """What the metrics hook was told, in order."""
    told: list[tuple[str, str, str]] = []
    tokens.on_operation.append(lambda *event: told.append(event))
    return told


@pytest.fixture
def no_pause_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key files are looked at before every verification."""
    monkeypatch.setattr(keys, "LOOK_AGAIN_SECONDS", 0.0)


def payload(**changes: Any) -> dict[str, Any]:
    """A good payload at NOW; a change to None leaves the claim out."""
    moment = int(NOW.timestamp())
    claims: dict[str, Any] = {
        "iss": "zantara", "aud": "zantara", "sub": "alice", "iat": moment, "exp": moment + 3600, "role": "CEO",
    }  # fmt: skip
    claims.update(changes)
    return {name: value for name, value in claims.items() if value is not None}


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers or None)


def refusal(token: str, now: datetime = NOW) -> str:
    """The reason for which the token is refused; its text must not be in the message."""
    with pytest.raises(TokenRefused) as caught:
        verify(token, now=now)
    assert isinstance(caught.value, NotAuthentic)
    assert token == "" or token not in str(caught.value)
    return caught.value.reason


def public_pem(private_key: Any) -> bytes:
    pem: bytes = private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write the public half of a private key as ``<name>.pem``."""

    def write(name: str, private_key: Any) -> Path:
        path = tmp_path / f"{name}.pem"
        path.write_bytes(public_pem(private_key))
        return path

    return write


@pytest.fixture
def log_events() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What was logged during the test."""
    with structlog.testing.capture_logs() as events:
        yield lambda: [dict(event) for event in events]
