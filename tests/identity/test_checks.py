"""System checks: each wrong setting is named with an id, a remedy and a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from controlplane.identity.checks import check_proxies, check_tokens

DOCS = (Path(__file__).parents[2] / "docs" / "identity.md").read_text(encoding="utf-8")


def found(settings: Any, **changes: Any) -> list[str]:
    for name, value in changes.items():
        setattr(settings, name, value)
    messages = [*check_proxies(), *check_tokens()]
    anchors = {"#" + line.strip("# \n").lower().replace(" ", "-") for line in DOCS.splitlines() if line.startswith("#")}
    for message in messages:
        assert "docs/identity.md#" in (message.hint or "")
        assert "#" + (message.hint or "").rpartition("#")[2].rstrip(").") in anchors
    return [str(message.id) for message in messages]


def test_a_good_installation_has_no_finding(settings: Any, key_file: Callable[[str, Any], Path]) -> None:
    assert found(settings) == []
    path = key_file("issuer", ec.generate_private_key(ec.SECP256R1()))
    assert (
        found(
            settings,
            ZANTARA_TRUSTED_PROXIES=["10.0.0.0/8", "::1", "unix"],
            ZANTARA_JWT_PUBLIC_KEY_FILES=[str(path)],
            ZANTARA_JWT_ALGORITHMS=["ES256"],
        )
        == []
    )


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({"ZANTARA_TRUSTED_PROXIES": ["my-proxy"]}, ["zantara.E201"]),
        ({"ZANTARA_IPV6_PREFIX": 129}, ["zantara.E201"]),
        ({"ZANTARA_TRUSTED_PROXIES": ["0.0.0.0/0"]}, ["zantara.W202"]),
        ({"ZANTARA_TRUSTED_PROXIES": ["::/0"]}, ["zantara.W202"]),
        ({"ZANTARA_JWT_SECRET_FILE": "/nowhere/secret"}, ["zantara.E202"]),
        ({"ZANTARA_JWT_ALGORITHMS": ["HS256", "none"]}, ["zantara.E203"]),
        ({"ZANTARA_JWT_SECRET": "-----BEGIN PUBLIC KEY-----"}, ["zantara.E204", "zantara.W204"]),
        ({"ZANTARA_JWT_SECRET": None, "ZANTARA_JWT_SECRET_FILE": "/nowhere"}, ["zantara.E204", "zantara.W204"]),
        ({"ZANTARA_JWT_PUBLIC_KEY_FILES": ["/nowhere/key.pem"]}, ["zantara.E205"]),
        ({"ZANTARA_JWT_SECRET": "x" * 31}, ["zantara.W201"]),
        ({"ZANTARA_JWT_SECRET": "x" * 32}, []),
        ({"ZANTARA_JWT_ALGORITHMS": ["ES256"]}, ["zantara.W203"]),
        ({"ZANTARA_JWT_SECRET": None}, ["zantara.W204"]),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], ids: list[str], settings: Any) -> None:
    assert found(settings, **changes) == ids


def test_a_private_key_among_the_public_ones_is_an_error(settings: Any, tmp_path: Path) -> None:
    path = tmp_path / "private.pem"
    path.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert found(settings, ZANTARA_JWT_PUBLIC_KEY_FILES=[str(path)], ZANTARA_JWT_ALGORITHMS=["HS256", "EdDSA"]) == [
        "zantara.E205"
    ]


def test_a_public_key_whose_algorithm_is_not_allowed_is_named(
    settings: Any, key_file: Callable[[str, Any], Path]
) -> None:
    path = key_file("issuer", ed25519.Ed25519PrivateKey.generate())
    assert found(settings, ZANTARA_JWT_PUBLIC_KEY_FILES=[str(path)]) == ["zantara.W203"]


def test_the_checks_are_registered_and_run_with_the_projects_others() -> None:
    from django.core.checks import registry

    assert {check_proxies, check_tokens} <= set(registry.registry.get_checks())
