"""``POST /auth/token``: name and password for a token; every refusal tells as little as the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth import hashers
from django.contrib.auth.models import Group
from django.test import Client

from controlplane.identity import tokens
from controlplane.identity.tokens import verify
from tests.identity.conftest import public_pem

# An emptied Redis: the guard in front of the view counts attempts there.
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_url")]
PASSWORD = "correct horse battery"


@pytest.fixture
def alice(django_user_model: Any) -> Any:
    user = django_user_model.objects.create_user(username="alice", password=PASSWORD)
    for name in ("External", "CEO", "Operator"):
        user.groups.add(Group.objects.get_or_create(name=name)[0])
    return user


@pytest.fixture
def nothing_issued(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> str:
        raise AssertionError("a token was issued")

    monkeypatch.setattr(tokens.jwt, "encode", never)


def ask(client: Client, body: object, content_type: str = "application/json", **extra: Any) -> Any:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post("/auth/token", data=data, content_type=content_type, **extra)


def test_a_user_gets_a_token_with_the_best_role_of_his_groups(client: Client, alice: Any, settings: Any) -> None:
    settings.ZANTARA_JWT_TTL_SECONDS = 900
    response = ask(client, {"username": "alice", "password": PASSWORD})
    assert (response.status_code, response["Cache-Control"]) == (200, "no-store")
    answer = response.json()
    assert (answer["token_type"], answer["expires_in"], answer["role"]) == ("Bearer", 900, "CEO")
    assert set(answer) == {"access_token", "token_type", "expires_in", "role"}
    claims = verify(answer["access_token"])
    assert (claims.subject, claims.roles) == ("alice", ("CEO",))
    assert (claims.expires_at - claims.issued_at).total_seconds() == 900


def test_the_token_works_on_the_next_request_and_no_cookie_is_set(client: Client, alice: Any) -> None:
    response = ask(client, {"username": "alice", "password": PASSWORD})
    assert not response.cookies
    again = client.get("/auth/token", headers={"authorization": f"Bearer {response.json()['access_token']}"})
    assert again.status_code == 405


def test_a_user_without_a_role_gets_the_default_one(client: Client, django_user_model: Any) -> None:
    django_user_model.objects.create_superuser(username="root", password=PASSWORD)
    assert ask(client, {"username": "root", "password": PASSWORD}).json()["role"] == "default"


def test_no_csrf_token_is_asked_for(alice: Any) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert ask(strict, {"username": "alice", "password": PASSWORD}).status_code == 200


@pytest.mark.usefixtures("nothing_issued")
def test_unknown_user_wrong_password_and_inactive_user_get_one_answer_for_the_same_work(
    client: Client, alice: Any, django_user_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    django_user_model.objects.create_user(username="gone", password=PASSWORD, is_active=False)
    hasher = type(hashers.get_hasher("default"))
    encode, hashed = hasher.encode, []
    monkeypatch.setattr(
        hasher,
        "encode",
        lambda self, password, *rest, **more: (hashed.append(1), encode(self, password, *rest, **more))[1],
    )
    answers, work = [], []
    for username, password in (("alice", "wrong"), ("nobody", "wrong"), ("gone", PASSWORD), ("gone", "wrong")):
        hashed.clear()
        response = ask(client, {"username": username, "password": password})
        answers.append((response.status_code, response.content, response["WWW-Authenticate"]))
        work.append(len(hashed))
    assert work == [1, 1, 1, 1]
    assert len(set(answers)) == 1
    assert answers[0][0] == 401
    assert answers[0][2] == 'Bearer realm="zantara"'


@pytest.mark.usefixtures("nothing_issued")
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("username=alice&password=x", "application/x-www-form-urlencoded", 415),
        ("username=alice", "multipart/form-data; boundary=x", 415),
        ("{}", "text/plain", 415),
        (" ", "application/json", 400),
        ("{", "application/json", 400),
        (b"\xff\xfe\xff", "application/json", 400),
        ("[" * 4000, "application/json", 400),
        ("[]", "application/json", 400),
        ("null", "application/json", 400),
        ({}, "application/json", 400),
        ({"username": "alice"}, "application/json", 400),
        ({"username": 7, "password": "x"}, "application/json", 400),
        ({"username": "alice", "password": ["x"]}, "application/json", 400),
        ({"username": "ali\x00ce", "password": "x"}, "application/json", 400),
        ({"username": "alice", "password": "\ud800"}, "application/json", 400),
        ({"username": "alice", "password": "x" * 4096}, "application/json", 413),
    ],
)
def test_a_request_that_is_none_for_a_token_is_a_problem_and_no_password_is_tried(
    client: Client, body: object, content_type: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a password was tried")

    monkeypatch.setattr("controlplane.identity.views.authenticate", never)
    response = ask(client, body, content_type)
    assert response.status_code == status
    assert response["Content-Type"] == "application/problem+json"
    assert response["Cache-Control"] == "no-store"
    assert json.loads(response.content)["status"] == status


def test_a_charset_beside_the_content_type_is_fine(client: Client, alice: Any) -> None:
    body = {"username": "alice", "password": PASSWORD}
    assert ask(client, body, "application/json; charset=utf-8").status_code == 200


@pytest.mark.parametrize("method", ["get", "put", "delete", "head", "options"])
def test_only_post_is_allowed(client: Client, method: str) -> None:
    response = getattr(client, method)("/auth/token")
    assert (response.status_code, response["Allow"]) == (405, "POST")


def test_an_installation_with_public_keys_alone_issues_nothing_and_says_so(
    client: Client, alice: Any, settings: Any, tmp_path: Any
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    path = tmp_path / "issuer.pem"
    path.write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate()))
    settings.ZANTARA_JWT_SECRET = None
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = [str(path)]
    settings.ZANTARA_JWT_ALGORITHMS = ["EdDSA"]
    response = ask(client, {"username": "alice", "password": PASSWORD})
    assert response.status_code == 501
    assert "Issue tokens where the private key is" in json.loads(response.content)["detail"]


def test_neither_password_nor_token_reaches_the_log(client: Client, alice: Any, log_events: Any) -> None:
    token = ask(client, {"username": "alice", "password": PASSWORD}).json()["access_token"]
    ask(client, {"username": "alice", "password": PASSWORD + "x"})
    assert "token_issued" in [event["event"] for event in log_events()]
    assert PASSWORD not in str(log_events())
    assert token not in str(log_events())
