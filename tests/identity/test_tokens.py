"""Bearer tokens: what holds, and every way in which one does not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controlplane.identity import tokens
from controlplane.identity.tokens import Claims, issue, verify
from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError, NotAuthentic, Refused
from tests.identity.conftest import NOW, RSA_KEY, SECRET, payload, public_pem, refusal, sign


def b64(data: bytes | dict[str, Any]) -> str:
    raw = json.dumps(data).encode() if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_token_that_we_issue_says_who_and_until_when() -> None:
    claims = verify(issue("alice", "CEO", 60, now=NOW), now=NOW)
    assert (claims.subject, claims.roles) == ("alice", ("CEO",))
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + timedelta(seconds=60))
    assert len(claims.token_id) == 32


def test_two_tokens_for_the_same_caller_differ_in_their_id() -> None:
    first, second = (verify(issue("alice", "CEO", 60, now=NOW), now=NOW).token_id for _ in range(2))
    assert first != second


def test_a_token_of_another_issuer_needs_no_id_and_may_have_several_roles() -> None:
    token = sign(payload(role="External", roles=["CEO", "External", "Guest"]))
    assert verify(token, now=NOW) == Claims(
        "alice", ("External", "CEO", "Guest"), NOW, NOW + timedelta(hours=1), token_id=""
    )


def test_a_token_without_a_role_holds_and_has_none() -> None:
    assert verify(sign(payload(role=None)), now=NOW).roles == ()


# --- forgeries -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_an_unsigned_token_is_refused_even_if_the_settings_name_none(
    algorithm: str, signature: str, settings: Any
) -> None:
    settings.ZANTARA_JWT_ALGORITHMS = ["HS256", algorithm]
    token = f"{b64({'alg': algorithm, 'typ': 'JWT'})}.{b64(payload())}.{signature}"
    assert refusal(token) == "unknown_key"


def test_an_unsigned_token_is_refused() -> None:
    assert refusal(jwt.encode(payload(), "", algorithm="none")) == "algorithm"


@pytest.mark.parametrize("with_secret", [True, False])
def test_the_text_of_a_public_key_is_no_hmac_secret(
    with_secret: bool, settings: Any, key_file: Callable[[str, Any], Path]
) -> None:
    import hashlib
    import hmac

    path = key_file("issuer", RSA_KEY)
    settings.ZANTARA_JWT_SECRET = SECRET if with_secret else None
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(path)]
    settings.ZANTARA_JWT_ALGORITHMS = ["HS256", "RS256"]
    for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "issuer"}):
        for text in (path.read_bytes(), path.read_bytes().strip()):
            signed = f"{b64(header)}.{b64(payload())}"
            token = f"{signed}.{b64(hmac.new(text, signed.encode(), hashlib.sha256).digest())}"
            assert refusal(token) == ("signature" if with_secret else "unknown_key")
    assert verify(sign(payload(), RSA_KEY, "RS256"), now=NOW).subject == "alice"


def test_a_good_signature_by_an_algorithm_that_is_not_allowed_is_refused() -> None:
    long_secret = sign(payload(), SECRET + "x" * 64, "HS512")
    assert refusal(long_secret) == "algorithm"


def test_a_wrong_secret_and_a_changed_payload_are_refused() -> None:
    assert refusal(sign(payload(), "another secret that is long enough too")) == "signature"
    header, _, signature = sign(payload()).split(".")
    assert refusal(f"{header}.{b64(payload(role='AI Bridge/Tech Lead'))}.{signature}") == "signature"
    assert refusal(f"{header}.{b64(payload())}.") == "signature"


def test_an_installation_without_any_key_refuses_every_token(settings: Any) -> None:
    settings.ZANTARA_JWT_SECRET = None
    assert refusal(sign(payload())) == "unknown_key"
    assert refusal(jwt.encode(payload(), "", algorithm="none")) == "algorithm"


# --- times -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds_after_expiry", "reason"), [(-1, None), (0, None), (29, None), (30, "expired"), (31, "expired")]
)
def test_an_expired_token_is_forgiven_for_less_than_thirty_seconds(
    seconds_after_expiry: int, reason: str | None
) -> None:
    now = NOW + timedelta(hours=1, seconds=seconds_after_expiry)
    if reason is None:
        assert verify(sign(payload()), now=now).subject == "alice"
    else:
        assert refusal(sign(payload()), now) == reason


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_the_future_is_forgiven_for_thirty_seconds(claim: str) -> None:
    moment = int(NOW.timestamp())
    assert verify(sign(payload(**{claim: moment + 30})), now=NOW).subject == "alice"
    assert refusal(sign(payload(**{claim: moment + 31}))) == "not_yet_valid"


@pytest.mark.parametrize("value", ["soon", "1772370000", True, -1, 1e300, float("inf"), float("nan"), [], {}, 10**30])
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_a_time_that_is_none_is_refused(claim: str, value: object) -> None:
    assert refusal(sign({**payload(), claim: value})) == "malformed"


# --- claims ----------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", ["exp", "iat", "sub", "iss", "aud"])
def test_each_required_claim_is_required(claim: str) -> None:
    assert refusal(sign(payload(**{claim: None}))) == "missing_claim"


def test_the_audience_and_the_issuer_must_be_ours() -> None:
    assert refusal(sign(payload(aud="billing"))) == "audience"
    assert refusal(sign(payload(aud=["billing", "mail"]))) == "audience"
    assert verify(sign(payload(aud=["billing", "zantara"])), now=NOW).subject == "alice"
    assert refusal(sign(payload(iss="zantara.example"))) == "issuer"
    several = jwt.PyJWS().encode(json.dumps({**payload(), "iss": ["zantara"]}).encode(), SECRET.encode(), "HS256")
    assert refusal(several) == "issuer"


def test_audience_and_issuer_are_settings(settings: Any) -> None:
    settings.ZANTARA_JWT_AUDIENCE = "billing"
    settings.ZANTARA_JWT_ISSUER = "https://login.example"
    assert verify(sign(payload(aud="billing", iss="https://login.example")), now=NOW).subject == "alice"
    assert refusal(sign(payload(iss="https://login.example"))) == "audience"
    assert refusal(sign(payload(aud="billing"))) == "issuer"


@pytest.mark.parametrize("subject", ["", " ", "a" * 201, "al\nice", "al\x00ice", "al\x1fice", "\u2028", "\x85", "\x7f"])
def test_a_subject_that_could_confuse_logs_or_keys_is_refused(subject: str) -> None:
    assert refusal(sign(payload(sub=subject))) == "malformed"


@pytest.mark.parametrize("subject", [7, None, ["alice"], {"name": "alice"}])
def test_a_subject_that_is_no_string_is_refused(subject: object) -> None:
    claims = {**payload(), "sub": subject}
    token = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET.encode(), algorithm="HS256")
    assert refusal(token) in {"malformed", "missing_claim"}


@pytest.mark.parametrize(
    "subject", ["a" * 200, "Zoë O'Neil", "علی\u200cرضا", "auth0|5f7c", "alice@example.org", "👩‍💻"]
)
def test_a_subject_may_be_any_name(subject: str) -> None:
    assert verify(sign(payload(sub=subject)), now=NOW).subject == subject


@pytest.mark.parametrize(
    "changes",
    [{"role": 7}, {"role": ""}, {"role": ["CEO"]}, {"role": "C\nEO"}, {"role": "x" * 101}, {"roles": "CEO"},
     {"roles": ["CEO", 7]}, {"roles": {"CEO": True}}, {"roles": [f"r{n}" for n in range(51)]}],
)  # fmt: skip
def test_roles_that_are_no_names_are_refused(changes: dict[str, Any]) -> None:
    assert refusal(sign(payload(**changes))) == "malformed"


# --- junk ------------------------------------------------------------------------------------


def test_a_token_longer_than_eight_kibibytes_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(tokens.jwt, "get_unverified_header", never)
    assert refusal(sign(payload(padding="x" * 9000))) == "oversized"
    assert refusal("." * (8 * 1024 + 1)) == "oversized"


@pytest.mark.parametrize(
    "token",
    ["", "x", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "\x00.\x00.\x00", "null", "{}", " . . ",
     f"{b64(b'[]')}.{b64(b'{}')}.AA", f"{b64(b'null')}.{b64(b'{}')}.AA", f"{b64(b'[' * 4000)}.AA.AA",
     f"{b64({'alg': 'HS256'})}.AA.", f"{b64({'alg': ['HS256']})}.{b64({})}.AA", f"{b64({'alg': {}})}.{b64({})}.AA"],
)  # fmt: skip
def test_junk_is_refused_and_never_an_error(token: str) -> None:
    assert refusal(token) in {"malformed", "algorithm", "signature"}


@pytest.mark.parametrize(
    "body", [b"[]", b"7", b"null", b'"alice"', b"{", b"\xff", b"[" * 4000, b'{"exp":' + b"1" * 5000 + b"}"]
)
def test_a_signed_payload_that_is_no_object_is_refused(body: bytes) -> None:
    token = jwt.PyJWS().encode(body, SECRET.encode(), algorithm="HS256")
    assert refusal(token) == "malformed"


def test_critical_extensions_that_nobody_here_understands_are_refused() -> None:
    assert refusal(sign(payload(), crit=["exp-plus"], **{"exp-plus": 1})) == "malformed"


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}")
    )
)
def test_no_text_raises_anything_but_not_authentic(text: str) -> None:
    with pytest.raises(NotAuthentic):
        verify(text, now=NOW)


# --- issuing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "role", "ttl"),
    [("", "CEO", 60), (" ", "CEO", 60), ("a\nb", "CEO", 60), ("a" * 201, "CEO", 60), ("alice", "C\x00", 60),
     ("alice", "CEO", 0), ("alice", "CEO", -1), ("alice", "CEO", 0.5), ("alice", "CEO", 365 * 86400 + 1),
     ("alice", "CEO", float("nan")), ("alice", "CEO", float("inf"))],
)  # fmt: skip
def test_a_token_for_nobody_or_for_no_time_or_for_ever_is_not_issued(
    subject: str, role: str, ttl: float, operations: list[tuple[str, str, str]]
) -> None:
    with pytest.raises(Refused):
        issue(subject, role, ttl, now=NOW)
    assert operations == []


def test_an_installation_with_public_keys_alone_says_where_tokens_come_from(
    settings: Any, key_file: Callable[[str, Any], Path]
) -> None:
    settings.ZANTARA_JWT_SECRET = None
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(key_file("issuer", RSA_KEY))]
    settings.ZANTARA_JWT_ALGORITHMS = ["RS256"]
    with pytest.raises(ConfigurationError, match=r"only verifies tokens.*Issue tokens where the private key is"):
        issue("alice", "CEO", 60, now=NOW)


def test_a_secret_that_no_algorithm_uses_signs_nothing(settings: Any) -> None:
    settings.ZANTARA_JWT_ALGORITHMS = ["ES256"]
    with pytest.raises(ConfigurationError, match="Add HS256"):
        issue("alice", "CEO", 60, now=NOW)


def test_a_pem_key_as_the_secret_is_refused(settings: Any) -> None:
    settings.ZANTARA_JWT_SECRET = public_pem(RSA_KEY).decode()
    with pytest.raises(ConfigurationError, match="PEM key"):
        issue("alice", "CEO", 60, now=NOW)
    assert refusal(sign(payload())) == "unknown_key"


# --- the hook for metrics --------------------------------------------------------------------


def test_every_outcome_is_told_with_few_different_words(operations: list[tuple[str, str, str]]) -> None:
    verify(issue("alice", "CEO", 60, now=NOW), now=NOW)
    verify(sign(payload(role="Made up by the caller")), now=NOW)
    refusal(sign(payload(role="CEO")), NOW + timedelta(days=1))
    refusal("junk")
    assert operations == [
        ("issue", "success", "CEO"),
        ("verify", "success", "CEO"),
        ("verify", "success", "default"),
        ("verify", "expired", "default"),
        ("verify", "malformed", "default"),
    ]


def test_without_a_given_time_the_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime(2031, 1, 1, tzinfo=UTC))
    claims = verify(issue("alice", "CEO", 60))
    assert claims.issued_at == datetime(2031, 1, 1, tzinfo=UTC)
