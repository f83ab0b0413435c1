"""Callers: limited by the profiles, known to metrics; the description of the API, and its page."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from controlplane.api.api import api
from controlplane.api.routes.health import score_of
from controlplane.kernel import clock
from controlplane.kernel.registry import ProbeResult
from controlplane.monitoring import pressure
from controlplane.monitoring.health import document
from controlplane.monitoring.health.document import State
from controlplane.monitoring.health.minute import NOTHING_SEEN
from controlplane.monitoring.pressure import Pressure
from ratelimits.limiter import get_limiter
from ratelimits.models import RateLimitProfile
from ratelimits.policies import publish_now
from ratelimits.role_source import role_source
from tests.api.test_scopes import OPERATIONS, operations

from .conftest import Program, token_for

# --- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def profiles(redis_url: str, db: None) -> Any:
    """Make profiles and put them in force."""

    def make(*rows: dict[str, Any]) -> None:
        for row in rows:
            RateLimitProfile(**row).save()
        publish_now()
        get_limiter.cache_clear()
        role_source.forget()

    return make


def test_a_token_is_limited_by_its_role_and_counted_on_its_own(root: User, profiles: Any) -> None:
    profiles({"role": "External", "requests": 2, "key": "user"}, {"role": "CEO", "requests": 5, "key": "user"})
    first, second = (token_for(root, "health:read", role="External")[1] for _ in range(2))
    boss = token_for(root, "health:read", role="CEO")[1]
    assert [Program(first).get("/health").status_code for _ in range(3)] == [200, 200, 429]
    assert [Program(second).get("/health").status_code for _ in range(3)] == [200, 200, 429]
    assert [Program(boss).get("/health").status_code for _ in range(6)] == [200] * 5 + [429]
    denied = Program(first).get("/health")
    assert denied.headers["Content-Type"] == "application/problem+json"
    assert denied.json()["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert int(denied.headers["Retry-After"]) > 0
    assert denied.headers["RateLimit-Policy"].endswith("q=2;w=900")


def test_one_token_can_be_given_a_limit_of_its_own_by_its_prefix(root: User, profiles: Any) -> None:
    profiles({"role": "External", "requests": 100, "key": "user"})
    token, text = token_for(root, "health:read", role="External")
    profiles(
        {"role": "External", "requests": 1, "key": "user", "subject": token.prefix},
    )
    assert [Program(text).get("/health").status_code for _ in range(2)] == [200, 429]


def test_a_token_without_a_role_has_its_owners(root: User, profiles: Any) -> None:
    profiles({"role": "CEO", "requests": 1, "key": "user"}, {"role": "default", "requests": 50})
    root.groups.add(Group.objects.create(name="CEO"))
    text = token_for(root, "health:read")[1]
    assert [Program(text).get("/health").status_code for _ in range(2)] == [200, 429]


def test_guessing_is_limited_by_address_before_a_token_holds(root: User, profiles: Any) -> None:
    profiles({"role": "default", "requests": 3, "key": "ip"})
    guesses = [Program(f"zt_abcdefgh_{number:043d}").get("/health").status_code for number in range(5)]
    assert guesses == [401, 401, 401, 429, 429]


# --- health -------------------------------------------------------------------------------------------------------


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the traffic of other tests, nor this machine's memory, nor an earlier answer plays a part."""
    monkeypatch.setattr(document, "last_minute", lambda: NOTHING_SEEN)
    monkeypatch.setattr(pressure, "current", lambda: Pressure(10, 100, 10.0, 5, clock.monotonic()))
    document.forget_answers()


def test_health_is_the_document_with_remedies_and_the_score(program: Program, calm: None) -> None:
    deadline = time.monotonic() + 30
    while True:
        response = program.get("/health")
        assert response.headers["Cache-Control"] == "no-store"
        answer = response.json()
        if answer["document"]["services"]["database"] != "unknown" or time.monotonic() > deadline:
            break  # on a busy machine the database answers too late once
        time.sleep(0.5)
    assert answer["document"]["services"]["database"] == "pass"
    assert "remedy" in answer["document"]["checks"]["database"][0]
    assert answer["score"] == {"value": 100, "share": 100, "suffices": True, "failed_gates": [], "reasons": []}


def test_the_score_is_0_without_a_database_and_enough_without_the_vector_store() -> None:
    def state(**results: ProbeResult) -> State:
        return State(
            at=clock.now(), uptime_seconds=1, memory_used_bytes=1, memory_limit_bytes=2, memory_percent=50,
            connections=1, traffic=NOTHING_SEEN, results=results,
        )  # fmt: skip

    good, bad = ProbeResult("pass", "answers"), ProbeResult("fail", "does not answer")
    assert score_of(state(database=good)).value == 100
    assert (score_of(state(database=bad, chroma=good)).value, score_of(state(database=bad)).failed_gates) == (
        0, ("database",),
    )  # fmt: skip
    assert score_of(state(database=good, chroma=bad)).value == 80
    assert score_of(state(database=ProbeResult("unknown", "late"))).reasons == (
        "database timed out: late (nothing counts without it)",
    )


# --- description --------------------------------------------------------------------------------------------------


def test_the_description_names_every_operation_its_scope_and_its_shapes() -> None:
    schema = api.get_openapi_schema()
    assert schema["openapi"].startswith("3.")
    assert schema["info"]["title"] == "Zantara control plane"
    assert {(method.upper(), operation["operationId"]) for _, method, operation in operations()} == {
        (method, name) for name, (method, *_) in OPERATIONS.items()
    }
    for path, method, operation in operations():
        assert operation["security"] == [{"ApiTokenAuth": []}], path
        assert re.fullmatch(r"/api/v1(/[a-z]+|/\{[a-z_]+\})+", path)
        for status, answer in operation["responses"].items():
            kind = "application/problem+json" if status >= 400 else "application/json"
            assert list(answer["content"]) == [kind]
            assert ("headers" in answer) is (status in (201, 202))
        keys = [given["name"] for given in operation["parameters"] if given["in"] == "header"]
        assert keys == (["Idempotency-Key"] if method == "post" else [])
    assert schema["components"]["securitySchemes"] == {
        "ApiTokenAuth": {"type": "http", "scheme": "bearer", "description": "An API token of the admin, zt_…"}
    }


def test_every_reference_of_the_description_leads_somewhere() -> None:
    schema = api.get_openapi_schema()
    found = set(re.findall(r"'#/components/schemas/([^']+)'", str(schema)))
    assert found
    assert found <= set(schema["components"]["schemas"])


def test_names_that_clients_are_made_from_stay() -> None:
    schemas = set(api.get_openapi_schema()["components"]["schemas"])
    assert schemas == {
        "Artifact", "Backup", "Change", "Command", "Deployment", "DeploymentLine", "Event", "Health", "HistoryEntry",
        "Instance", "Limit", "LimitChange", "NewBackup", "NewCommand", "NewDeployment", "NewProof", "NewRelease",
        "Page_Backup_", "Page_DeploymentLine_", "Page_Event_", "Page_HistoryEntry_", "Page_Limit_", "Page_Release_",
        "Page_Service_", "Plan", "PlannedBackup", "PlannedStage", "PlannedStep", "Problem", "Proof", "Release",
        "Score", "Service", "Stage", "Step", "FieldProblem", "Paging", "DeploymentFilters", "BackupFilters",
        "HistoryFilters",
    }  # fmt: skip


def test_the_page_needs_no_internet(db: None, redis_url: str) -> None:
    page = Client().get("/api/v1/docs")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/static/ninja/"), link
        got = Client().get(link)
        assert got.status_code == 200, link
        assert got.getvalue()
    assert Client().get("/api/v1/openapi.json").json()["info"]["title"] == "Zantara control plane"
