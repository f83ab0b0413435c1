"""Bearer tokens (JWT, RFC 7519): verify one, issue one. No I/O but a look at the key files once a second."""

from __future__ import annotations

import math
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import jwt

from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError, NotAuthentic, Refused

from .config import TokenSettings, token_settings
from .keys import HMAC_ALGORITHMS, KeyRing, shared_secret
from .roles import best_role, known_role

#: A header line of 8 KiB is what common servers take; a token with a few claims has under 1 KiB.
MOST_TOKEN_BYTES = 8 * 1024
LEEWAY_SECONDS = 30
LONGEST_SUBJECT = 200
LONGEST_ROLE = 100
MOST_ROLES = 50
LONGEST_TTL_SECONDS = 365 * 86400
REQUIRED_CLAIMS = ("exp", "iat", "sub", "iss", "aud")
_UNNAMEABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that a datetime can hold

#: Called after each operation with (operation, status, role): ``verify`` or ``issue``; ``success`` or a reason
#: of ``TokenRefused``; a known role or ``default``. All three have few values. Listeners are quick and do not raise.
on_operation: list[Callable[[str, str, str], None]] = []


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. ``roles`` in the token's order; ``token_id`` (jti) may be empty."""

    subject: str
    roles: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    token_id: str = ""


class TokenRefused(NotAuthentic):
    """A bearer token that does not hold; ``reason`` is one word of a short list, for logs and metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, remedy="Ask for a new token.")
        self.reason = reason


def verify(token: str, *, now: datetime | None = None) -> Claims:
    """The claims of a token that holds at ``now``; TokenRefused (a NotAuthentic) for every other text."""
    try:
        claims = _claims(_payload(token), now or clock.now())
    except TokenRefused as refusal:
        _tell("verify", refusal.reason, ())
        raise
    _tell("verify", "success", claims.roles)
    return claims


def issue(subject: str, role: str, ttl_seconds: float, now: datetime | None = None) -> str:
    """A token signed with the shared secret.

    Refused for an empty subject, a bad role or a lifetime outside one second to 365 days; ConfigurationError
    where there is no secret to sign with.
    """
    if not _is_name(subject, LONGEST_SUBJECT):
        raise Refused(
            "The subject must be a name.", remedy=f"Give 1 to {LONGEST_SUBJECT} characters, none of them a control one."
        )
    if role and not _is_name(role, LONGEST_ROLE):
        raise Refused("The role must be a name.", remedy=f"Give at most {LONGEST_ROLE} printable characters.")
    if not 1 <= ttl_seconds <= LONGEST_TTL_SECONDS:
        raise Refused("The lifetime must be between one second and 365 days.", remedy="Write for example 1h or 30d.")
    config = token_settings()
    algorithm, secret = _signing_key(config)
    issued_at = int((now or clock.now()).timestamp())
    payload: dict[str, Any] = {
        "iss": config.issuer,
        "aud": config.audience,
        "sub": subject,
        "iat": issued_at,
        "exp": issued_at + math.ceil(ttl_seconds),
        "jti": uuid.uuid4().hex,
    }
    if role:
        payload["role"] = role
    token = jwt.encode(payload, secret, algorithm=algorithm)
    _tell("issue", "success", (role,))
    return token


def _signing_key(config: TokenSettings) -> tuple[str, bytes]:
    secret = shared_secret(config)
    if secret is None:
        raise ConfigurationError(
            "This installation only verifies tokens: it has no secret to sign with.",
            remedy="Issue tokens where the private key is, or set ZANTARA_JWT_SECRET and add HS256 to "
            "ZANTARA_JWT_ALGORITHMS.",
        )
    for algorithm in config.algorithms:
        if algorithm in HMAC_ALGORITHMS:
            return algorithm, secret
    raise ConfigurationError(
        "There is a JWT secret, but ZANTARA_JWT_ALGORITHMS allows no algorithm that uses it.",
        remedy="Add HS256 to ZANTARA_JWT_ALGORITHMS, or issue tokens where the private key is.",
    )


@lru_cache(maxsize=4)
def _ring(config: TokenSettings) -> KeyRing:
    return KeyRing(config)


def _payload(token: str) -> Mapping[str, Any]:
    """The payload of a token with a good signature for our audience from our issuer, whatever the time."""
    if len(token) > MOST_TOKEN_BYTES:
        raise TokenRefused("oversized", "The token is too long.")
    if not token.isascii() or token.count(".") != 2:
        raise TokenRefused("malformed", "This is not a JWT.")
    config = token_settings()
    try:
        header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in config.algorithms:
            raise TokenRefused("algorithm", "The token is signed with an algorithm that is not allowed here.")
        candidates = _ring(config).candidates(algorithm, key_id)
        if not candidates:
            raise TokenRefused("unknown_key", "The token is signed with a key that is not known here.")
        for candidate in candidates:
            try:
                return jwt.decode(
                    token,
                    candidate.key,
                    algorithms=[algorithm],
                    audience=config.audience,
                    issuer=config.issuer,
                    options={
                        "require": list(REQUIRED_CLAIMS),
                        "verify_exp": False,
                        "verify_iat": False,
                        "verify_nbf": False,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
    except jwt.MissingRequiredClaimError as error:
        raise TokenRefused("missing_claim", f"The token lacks the claim {error.claim!r}.") from None
    except jwt.InvalidAudienceError:
        raise TokenRefused("audience", "The token is meant for another audience.") from None
    except jwt.InvalidIssuerError:
        raise TokenRefused("issuer", "The token comes from another issuer.") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        # Besides its own errors the library lets some of json's through: deep nesting, huge numbers.
        raise TokenRefused("malformed", "This is not a JWT that can be read.") from None
    raise TokenRefused("signature", "The token's signature does not hold.")


def _claims(payload: Mapping[str, Any], now: datetime) -> Claims:
    """The payload's claims, checked; times with a leeway for clocks that differ."""
    expires_at, issued_at = _moment(payload, "exp"), _moment(payload, "iat")
    moment = now.timestamp()
    if expires_at <= moment - LEEWAY_SECONDS:
        raise TokenRefused("expired", "The token has expired.")
    starts_at = _moment(payload, "nbf") if "nbf" in payload else issued_at
    if max(issued_at, starts_at) > moment + LEEWAY_SECONDS:
        raise TokenRefused("not_yet_valid", "The token is not valid yet.")
    subject, token_id = payload["sub"], payload.get("jti", "")
    if not _is_name(subject, LONGEST_SUBJECT):
        raise TokenRefused("malformed", "The token's subject is not a name.")
    return Claims(
        subject=subject,
        roles=_roles(payload),
        issued_at=datetime.fromtimestamp(issued_at, UTC),
        expires_at=datetime.fromtimestamp(expires_at, UTC),
        token_id=token_id if isinstance(token_id, str) else "",
    )


def _moment(payload: Mapping[str, Any], claim: str) -> float:
    value = payload[claim]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise TokenRefused("malformed", f"The token's {claim!r} is not a time.")
    return float(value)


def _roles(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """``role`` (a string) first, then ``roles`` (a list of strings), each once."""
    names: list[Any] = []
    if payload.get("role") is not None:
        names.append(payload["role"])
    listed = payload.get("roles")
    if listed is not None:
        if not isinstance(listed, list):
            raise TokenRefused("malformed", "The token's 'roles' is not a list.")
        names.extend(listed)
    if len(names) > MOST_ROLES or not all(_is_name(name, LONGEST_ROLE) for name in names):
        raise TokenRefused("malformed", "The token's roles are not names.")
    return tuple(dict.fromkeys(names))


def _is_name(value: object, longest: int) -> bool:
    """A non-blank string without control characters, line separators and lone surrogates."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= longest
        and not value.isspace()
        and (value.isprintable() or not any(unicodedata.category(c) in _UNNAMEABLE for c in value))
    )


def _tell(operation: str, status: str, roles: Sequence[str]) -> None:
    for listener in on_operation:
        listener(operation, status, known_role(best_role(roles)))
