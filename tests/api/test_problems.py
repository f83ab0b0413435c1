"""Errors: one shape for all, with what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError
from django.test import Client

from controlplane.api import problems
from controlplane.api.problems import KINDS
from controlplane.kernel.errors import ConfigurationError, ForbiddenMove, LeaseLost, Unavailable
from deployments.errors import BadPlan, TargetUnavailable
from deployments.models import Deployment
from tests.deployments.factories import make_deployment, make_release, make_service

from .conftest import Program

ROOT = Path(__file__).parents[2]


def problem_of(response: Any) -> dict[str, Any]:
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    document: dict[str, Any] = response.json()
    kind = KINDS[document["type"].removeprefix("urn:zantara:problem:")]
    assert (document["title"], document["status"], response.status_code) == (kind.title, kind.status, kind.status)
    return document


def test_what_is_refused_says_why_and_what_to_do(program: Program) -> None:
    service = make_service("shop")
    make_release(service, "1.0")
    document = problem_of(program.post("/deployments", {"service": "shop", "version": "9"}))
    assert document == {
        "type": "urn:zantara:problem:refused",
        "title": "Refused",
        "status": 409,
        "detail": "shop has no release 9.",
        "remedy": "It has: 1.0.",
    }
    deployment = make_deployment(service, service.releases.get(), state="failed")
    document = problem_of(program.post(f"/deployments/{deployment.name}/commands", {"kind": "pause"}))
    assert document["detail"] == f"{deployment.name} is failed: it cannot pause."
    assert document["remedy"] == "Possible now: retry."


def test_each_wrong_field_is_named(program: Program) -> None:
    body = {"service": 7, "source_kind": "tarball", "colour": "red"}
    document = problem_of(program.post("/deployments", body))
    assert document["type"] == "urn:zantara:problem:invalid"
    assert {error["where"] for error in document["errors"]} == {
        "body.service", "body.version", "body.source_kind", "body.colour",
    }  # fmt: skip
    assert "body.version: Field required" in document["detail"]
    document = problem_of(program.get("/deployments?limit=0"))
    assert [error["where"] for error in document["errors"]] == ["query.limit"]
    assert Deployment.objects.count() == 0


def test_bodies_and_cursors_that_cannot_be_read_are_malformed(program: Program) -> None:
    response = program.client.post(
        "/api/v1/deployments", "{", content_type="application/json",
        headers={"Authorization": f"Bearer {program.text}"},
    )  # fmt: skip
    assert problem_of(response)["detail"] == "The body is no JSON."
    assert problem_of(program.get("/deployments?cursor=x"))["type"] == "urn:zantara:problem:malformed"


def test_a_body_that_is_too_large_is_not_read(program: Program, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    document = problem_of(program.post("/deployments", {"reason": "x" * 2000}))
    assert document["status"] == 413


def test_unknown_addresses_rows_and_methods_have_the_same_shape(program: Program) -> None:
    assert problem_of(program.get("/nowhere"))["detail"] == "There is nothing at this address."
    assert problem_of(Client().get("/api/v2/anything"))["status"] == 404
    assert problem_of(program.get("/deployments/deploy-1"))["detail"] == "There is no deployment deploy-1."
    wrong = program.call("DELETE", "/deployments")
    assert problem_of(wrong)["detail"] == "DELETE is not possible here."
    assert set(wrong.headers["Allow"].replace(",", " ").split()) == {"GET", "POST"}


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (BadPlan("bad", remedy="do"), "refused"),
        (ForbiddenMove("bad", remedy="do"), "forbidden-move"),
        (Unavailable("bad", remedy="do"), "unavailable"),
        (TargetUnavailable("bad", remedy="do"), "unavailable"),
        (LeaseLost("bad", remedy="do"), "failed"),
        (ConfigurationError("bad", remedy="do"), "failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_every_error_of_ours_has_a_type_and_its_remedy(
    program: Program, monkeypatch: pytest.MonkeyPatch, error: Exception, name: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("controlplane.api.routes.limits.version_in_force", fail)
    response = program.get("/limits")
    document = problem_of(response)
    assert (document["type"], document["detail"], document["remedy"]) == (KINDS[name].type, "bad", "do")
    assert ("Retry-After" in response.headers) is (name == "unavailable")


def test_a_fault_of_ours_is_logged_and_tells_the_caller_nothing(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("the password is hunter2")

    logged: list[str] = []
    monkeypatch.setattr("controlplane.api.routes.limits.version_in_force", fail)
    monkeypatch.setattr(problems.log, "error", lambda event, **_: logged.append(event), raising=False)
    response = program.get("/limits")
    assert problem_of(response)["type"] == "urn:zantara:problem:internal"
    assert b"hunter2" not in response.content
    assert logged == ["api_failed"]


def test_a_database_that_is_away_is_unavailable(root: User, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise DatabaseError("no such host db.internal")

    monkeypatch.setattr("controlplane.api.bearer.find_token", fail)
    document = problem_of(program.get("/limits"))
    assert document["type"] == "urn:zantara:problem:unavailable"
    assert "db.internal" not in document["detail"]


def test_the_documented_types_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    table = re.findall(r"^\| `urn:zantara:problem:([a-z-]+)` \| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert table == [(kind.name, str(kind.status), kind.when) for kind in KINDS.values()]
