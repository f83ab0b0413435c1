"""The keys that verify bearer tokens: one shared secret, and public keys in PEM files.

Each key carries the algorithms that fit *its type*; a token's header only chooses among those. So the text of
a public key can never serve as an HMAC secret, and ``none`` fits no key.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError

from .config import TokenSettings

log = structlog.get_logger(__name__)

HMAC_ALGORITHMS = frozenset({"HS256", "HS384", "HS512"})
RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
KNOWN_ALGORITHMS = HMAC_ALGORITHMS | RSA_ALGORITHMS | frozenset(CURVE_ALGORITHMS.values()) | {"EdDSA"}

#: RFC 7518, section 3.2: an HMAC key as long as the hash, 256 bits for HS256.
LEAST_SECRET_BYTES = 32
#: How often files are looked at for a rotation.
LOOK_AGAIN_SECONDS = 1.0

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key, its name (the file's stem; empty for the secret) and the algorithms that fit its type."""

    name: str
    key: bytes | PublicKey = field(repr=False)
    algorithms: frozenset[str]


def read_public_key(path: Path) -> VerifyingKey:
    """The public key in a PEM file; ConfigurationError says what is wrong with it."""
    text = _read(path)
    if b"PRIVATE KEY" in text:
        raise ConfigurationError(
            f"The key file {path} holds a private key; verifying needs only the public one.",
            remedy=f"Write it with `openssl pkey -in {path} -pubout` and take the private key off this machine.",
        )
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The key file {path} holds no public key in PEM form.",
            remedy="It must begin with -----BEGIN PUBLIC KEY-----; from a certificate: `openssl x509 -pubkey -noout`.",
        ) from None
    if isinstance(key, RSAPublicKey):
        return VerifyingKey(path.stem, key, RSA_ALGORITHMS)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVE_ALGORITHMS:
        return VerifyingKey(path.stem, key, frozenset({CURVE_ALGORITHMS[key.curve.name]}))
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return VerifyingKey(path.stem, key, frozenset({"EdDSA"}))
    raise ConfigurationError(
        f"The key file {path} holds a key of a kind that signs no tokens.", remedy="Use RSA, P-256 or Ed25519 keys."
    )


def shared_secret(settings: TokenSettings) -> bytes | None:
    """The HMAC secret, from its file if that is how it is given; ConfigurationError if it cannot be used."""
    secret = settings.secret
    if settings.secret_file is not None:
        secret = _read(settings.secret_file).rstrip(b"\r\n")
        if not secret:
            raise ConfigurationError(f"The secret file {settings.secret_file} is empty.", remedy="Put a secret in it.")
    if secret is not None and secret.lstrip().startswith(b"-----BEGIN"):
        raise ConfigurationError(
            "The JWT secret is a PEM key.",
            remedy="Name public keys in ZANTARA_JWT_PUBLIC_KEY_FILES; the secret is random text.",
        )
    return secret


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The key file {path} cannot be read ({error.strerror}).",
            remedy="Correct the path, or make the file readable for the user that runs this process.",
        ) from None


class KeyRing:
    """The keys of one state of the settings, read again when a file changes.

    A file that cannot be read is left out and logged, so that one bad file refuses its own tokens and no
    others; a file that *becomes* unreadable (half written in a rotation) keeps its last good key.
    """

    def __init__(self, settings: TokenSettings) -> None:
        self.settings = settings
        self._keys: tuple[VerifyingKey, ...] = ()
        self._by_file: dict[Path, VerifyingKey] = {}
        self._seen: tuple[object, ...] | None = None
        self._looked_at = float("-inf")

    def candidates(self, algorithm: str, key_id: str | None) -> list[VerifyingKey]:
        """The keys that may have signed a token with this header.

        A ``kid`` names one public key by its file's stem; the secret has no name and goes by algorithm alone.
        """
        if algorithm not in self.settings.algorithms:
            return []
        return [
            key
            for key in self.keys()
            if algorithm in key.algorithms and (key_id is None or not key.name or key.name == key_id)
        ]

    def keys(self) -> tuple[VerifyingKey, ...]:
        moment = clock.monotonic()
        if moment - self._looked_at >= LOOK_AGAIN_SECONDS:
            self._looked_at = moment
            seen = tuple(_fingerprint(path) for path in self._files())
            if seen != self._seen:
                self._keys = tuple(self._load())
                self._seen = seen
        return self._keys

    def _files(self) -> Iterable[Path]:
        if self.settings.secret_file is not None:
            yield self.settings.secret_file
        yield from self.settings.public_key_files

    def _load(self) -> Iterable[VerifyingKey]:
        try:
            secret = shared_secret(self.settings)
            if secret is not None:
                yield VerifyingKey("", secret, HMAC_ALGORITHMS)
        except ConfigurationError as error:
            log.error("jwt_key_unreadable", error=error.message)
            yield from (key for key in self._keys if not key.name)
        for path in self.settings.public_key_files:
            try:
                self._by_file[path] = read_public_key(path)
            except ConfigurationError as error:
                log.error("jwt_key_unreadable", error=error.message)
            if path in self._by_file:
                yield self._by_file[path]


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  (once a second on the request path: no object in between)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
