"""Tokens: what is kept of one, whom it lets in, and for how long."""

from __future__ import annotations

import hmac
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from controlplane.api import credentials
from controlplane.api.models import ApiToken
from controlplane.api.scopes import SCOPES
from controlplane.api.tokens import find_token, make_token, revoke
from controlplane.identity.tokens import issue
from controlplane.kernel import clock
from controlplane.kernel.errors import NotAuthentic, Refused
from controlplane.kernel.redaction import redact, redact_text
from tests.console.people import person, signed_in

from .conftest import Program, token_for

UNAUTHORIZED = "urn:zantara:problem:unauthorized"


def problem_of(response: Any, status: int) -> dict[str, Any]:
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    return document


# --- what is kept -------------------------------------------------------------------------------------------------


def test_only_a_hash_of_a_token_is_kept(root: User) -> None:
    token, text = token_for(root, "health:read")
    assert credentials.prefix_of(text) == token.prefix == text[:11]
    assert len(text) == 11 + 1 + 43  # 43 characters of base64 are 256 bits
    row = ApiToken.objects.values().get()
    assert row["digest"] == sha256(text.encode()).hexdigest()
    assert text[12:] not in repr(row)
    assert text not in repr(credentials.new_secret())


def test_two_tokens_are_never_the_same() -> None:
    made = [credentials.new_secret() for _ in range(200)]
    assert len({one.text for one in made}) == len({one.digest for one in made}) == 200


@pytest.mark.parametrize(
    "text", ["", "zt_", "zt_abcdefgh", "zt_ABCDEFGH_" + "a" * 43, "zt_abcdefgh_" + "a" * 42, "zt_abcdefgh_" + "ä" * 43]
)
def test_what_is_no_token_has_no_prefix(text: str) -> None:
    assert credentials.prefix_of(text) is None


def test_hashes_are_compared_in_constant_time_also_where_nobody_has_the_prefix(
    root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, text = token_for(root, "health:read")
    compared: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def watched(one: str, other: str) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(credentials.hmac, "compare_digest", watched)
    assert find_token(text).pk == token.pk
    for wrong in (text[:12] + "A" * 43, "zt_00000000_" + "A" * 43, "zt_nonsense"):
        with pytest.raises(NotAuthentic, match=r"^The API token is not known here\."):
            find_token(wrong)
    assert [other for _, other in compared] == [token.digest, token.digest, "0" * 64, "0" * 64]


def test_a_token_in_a_log_keeps_only_its_prefix() -> None:
    made = credentials.new_secret()
    assert redact_text(f"curl: {made.text} was refused") == f"curl: {made.prefix}_*** was refused"
    assert redact({"note": [made.text]}) == {"note": [f"{made.prefix}_***"]}


# --- what may be granted ------------------------------------------------------------------------------------------


def refusal(owner: User, maker: User, *scopes: str, days: float = 1, role: str = "") -> str:
    token = ApiToken(
        name="x", owner=owner, scopes=list(scopes), expires_at=clock.now() + timedelta(days=days), role=role
    )
    with pytest.raises(Refused) as refused:
        make_token(token, maker=maker)
    assert ApiToken.objects.count() == 0
    return refused.value.message


def test_a_scope_is_granted_only_by_and_for_somebody_whose_permissions_cover_it(root: User) -> None:
    viewer = person("Viewer")
    assert refusal(viewer, viewer, "limits:write") == "a-viewer may not do what limits:write is for."
    assert refusal(viewer, root, "limits:write") == "a-viewer may not do what limits:write is for."
    assert refusal(root, viewer, "limits:read") == "root may do more than you."
    token_for(viewer, "limits:read", "history:read")


@pytest.mark.parametrize("scope", [scope for scope in SCOPES.values() if scope.permissions], ids=lambda s: s.name)
def test_each_permission_of_a_scope_is_needed_to_grant_it(db: None, scope: Any) -> None:
    for missing in scope.permissions:
        user = User.objects.create_user(f"without {missing}")
        for name in set(scope.permissions) - {missing}:
            app, codename = name.split(".")
            user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        assert refusal(user, user, scope.name) == f"without {missing} may not do what {scope.name} is for."


def test_a_token_has_a_scope_that_is_known_an_end_within_a_year_a_known_role_and_an_owner_who_is_not_locked(
    root: User,
) -> None:
    assert refusal(root, root) == "A token without a scope is good for nothing."
    assert refusal(root, root, "everything") == "There is no scope everything."
    assert refusal(root, root, "health:read", days=0).startswith("A token lives at most a year")
    assert refusal(root, root, "health:read", days=367).startswith("A token lives at most a year")
    assert refusal(root, root, "health:read", role="King") == "There is no role King."
    locked = User.objects.create_user("locked", is_active=False)
    assert refusal(locked, root, "health:read") == "locked is locked."


def test_a_token_is_never_changed_or_deleted_only_used_and_revoked(root: User) -> None:
    token, _ = token_for(root, "health:read")
    token.scopes = list(SCOPES)
    for change in (token.save, lambda: token.save(update_fields=["scopes"]), token.delete):
        with pytest.raises(Refused):
            change()
    assert ApiToken.objects.get().scopes == ["health:read"]
    revoke(token, actor="olga")
    with pytest.raises(Refused, match="is revoked already"):
        revoke(token, actor="olga")
    row = ApiToken.objects.get()
    assert (row.revoked_by, row.revoked_at is None) == ("olga", False)
    token_for(root, "health:read", name=token.name)  # a revoked one's name is free again


# --- whom it lets in ----------------------------------------------------------------------------------------------


def test_a_token_lets_in_until_it_expires_is_revoked_or_its_owner_is_locked(root: User, time_machine: Any) -> None:
    time_machine.move_to(clock.now())
    token, text = token_for(root, "health:read")
    program = Program(text)
    assert program.get("/health").status_code == 200
    root.is_active = False
    root.save()
    locked = problem_of(program.get("/health"), 401)
    assert locked["detail"] == f"The owner of the API token {token.prefix}… is locked."
    root.is_active = True
    root.save()
    time_machine.shift(timedelta(days=1, seconds=1))
    expired = program.get("/health")
    assert problem_of(expired, 401)["detail"] == f"The API token {token.prefix}… is expired."
    assert expired.headers["WWW-Authenticate"] == 'Bearer realm="zantara", error="invalid_token"'
    other, text = token_for(root, "health:read")
    revoke(other, actor="olga")
    assert problem_of(Program(text).get("/health"), 401)["detail"] == f"The API token {other.prefix}… is revoked."


def test_without_a_token_with_a_wrong_one_or_with_a_jwt_nobody_is_let_in(root: User, redis_url: str) -> None:
    _, text = token_for(root, "health:read")
    bare = Client().get("/api/v1/health")
    assert problem_of(bare, 401) == {
        "type": UNAUTHORIZED,
        "title": "No valid API token",
        "status": 401,
        "detail": "This needs an API token.",
        "remedy": "Send Authorization: Bearer zt_… (docs/api.md).",
    }
    assert bare.headers["WWW-Authenticate"] == 'Bearer realm="zantara"'
    assert bare.headers["Cache-Control"] == "no-store"
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), text + "A", "zt_x", "zt_"):
        assert problem_of(Program(wrong).get("/health"), 401)["detail"] == "The API token is not known here."
    jwt = Client().get("/api/v1/health", headers={"Authorization": f"Bearer {issue('root', 'CEO', 60)}"})
    assert problem_of(jwt, 401)["detail"] == "This needs an API token."
    basic = Client().get("/api/v1/health", headers={"Authorization": f"Basic {text}"})
    assert problem_of(basic, 401)["detail"] == "This needs an API token."


def test_a_session_of_the_admin_is_not_accepted(root: User) -> None:
    assert problem_of(signed_in(root).get("/api/v1/health"), 401)["type"] == UNAUTHORIZED


def test_outside_the_api_a_token_is_no_jwt_and_is_refused(root: User) -> None:
    _, text = token_for(root, "health:read")
    response = Client().get("/admin/", headers={"Authorization": f"Bearer {text}"})
    assert (response.status_code, response.json()["title"]) == (401, "The bearer token is not valid")


def test_that_it_was_used_is_noted_once_a_minute(root: User, time_machine: Any) -> None:
    time_machine.move_to(clock.now(), tick=False)
    token, text = token_for(root, "health:read")
    program, begun = Program(text), clock.now()

    def used() -> Any:
        return ApiToken.objects.get(pk=token.pk).last_used_at

    assert used() is None
    program.get("/health")
    assert used() == begun
    time_machine.shift(timedelta(seconds=59))
    program.get("/health")
    assert used() == begun
    time_machine.shift(timedelta(seconds=1))
    program.get("/health")
    assert used() == begun + timedelta(minutes=1)


def test_an_unknown_token_changes_no_row(root: User) -> None:
    token, text = token_for(root, "health:read")
    Program(text[:12] + "A" * 43).get("/health")
    assert ApiToken.objects.get(pk=token.pk).last_used_at is None
