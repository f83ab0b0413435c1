"""Every operation: which scope it asks for, and that nothing else lets anybody in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import RequestFactory

from backups.models import BackupRecord, ProofRun
from controlplane.api.api import api
from controlplane.api.auth import ApiTokenAuth
from controlplane.api.problems import NotPermitted
from controlplane.api.scopes import SCOPES
from deployments.models import Command, Deployment, Release
from ratelimits.models import RateLimitProfile
from tests.deployments.factories import make_deployment, make_release, make_service

from .conftest import Program, token_for

#: Operation -> method, address, body, scope, and the permissions that the owner must hold for it.
OPERATIONS: dict[str, tuple[str, str, Any, str, tuple[str, ...]]] = {
    "list_services": ("GET", "/services", None, "deployments:read", SCOPES["deployments:read"].permissions),
    "get_service": ("GET", "/services/shop", None, "deployments:read", SCOPES["deployments:read"].permissions),
    "plan_deployment": ("GET", "/services/shop/plan", None, "deployments:read", SCOPES["deployments:read"].permissions),
    "list_releases": (
        "GET", "/services/shop/releases", None, "deployments:read", SCOPES["deployments:read"].permissions,
    ),
    "get_release": (
        "GET", "/services/shop/releases/1.0", None, "deployments:read", SCOPES["deployments:read"].permissions,
    ),
    "create_release": (
        "POST", "/services/shop/releases", {"version": "3.0", "source": "/srv/3.0"}, "deployments:write",
        ("deployments.start_deployment", "deployments.add_release"),
    ),
    "list_deployments": ("GET", "/deployments", None, "deployments:read", SCOPES["deployments:read"].permissions),
    "create_deployment": (
        "POST", "/deployments", {"service": "shop", "version": "2.0"}, "deployments:write",
        ("deployments.start_deployment",),
    ),
    "get_deployment": ("GET", "/deployments/{d}", None, "deployments:read", SCOPES["deployments:read"].permissions),
    "list_deployment_events": (
        "GET", "/deployments/{d}/events", None, "deployments:read", SCOPES["deployments:read"].permissions,
    ),
    "steer_deployment": (
        "POST", "/deployments/{d}/commands", {"kind": "pause"}, "deployments:steer", ("deployments.pause_deployment",),
    ),
    "list_backups": ("GET", "/backups", None, "backups:read", SCOPES["backups:read"].permissions),
    "get_backup": ("GET", "/backups/none", None, "backups:read", SCOPES["backups:read"].permissions),
    "run_backup": ("POST", "/backups", {"plan": "none"}, "backups:run", ("backups.run_backup",)),
    "prove_backup": ("POST", "/backups/none/proofs", {"level": 2}, "backups:run", ("backups.verify_backup",)),
    "get_proof": ("GET", "/proofs/1", None, "backups:read", SCOPES["backups:read"].permissions),
    "list_limits": ("GET", "/limits", None, "limits:read", SCOPES["limits:read"].permissions),
    "get_limit": ("GET", "/limits/{l}", None, "limits:read", SCOPES["limits:read"].permissions),
    "change_limit": ("PATCH", "/limits/{l}", {"requests": 7}, "limits:write", SCOPES["limits:write"].permissions),
    "list_history": ("GET", "/history", None, "history:read", ()),
    "get_health": ("GET", "/health", None, "health:read", ()),
}  # fmt: skip
#: What the address names does not exist in these tests: found missing is let in.
LET_IN = {"get_backup": 404, "run_backup": 409, "prove_backup": 404, "get_proof": 404}
each = pytest.mark.parametrize("name", OPERATIONS)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in api.get_openapi_schema()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


@pytest.fixture
def world(db: None) -> dict[str, Any]:
    service = make_service("shop")
    release = make_release(service, "1.0")
    make_release(service, "2.0")
    limit = RateLimitProfile(role="CEO", requests=500)
    limit.save()
    return {"d": make_deployment(service, release).name, "l": limit.pk}


def written() -> tuple[int, ...]:
    """What operations could write."""
    rows = (Release, Deployment, Command, BackupRecord, ProofRun, RateLimitProfile.history)
    return tuple(getattr(each, "objects", each).count() for each in rows)


def call(program: Program, name: str, world: dict[str, Any]) -> Any:
    method, path, body, _, _ = OPERATIONS[name]
    return program.call(method, path.format(**world), body)


def test_the_table_holds_every_operation_with_its_scope() -> None:
    assert {operation["operationId"]: operation["x-scope"] for _, _, operation in operations()} == {
        name: scope for name, (_, _, _, scope, _) in OPERATIONS.items()
    }


@each
def test_an_operation_lets_in_a_token_with_its_scope_alone(
    name: str, world: dict[str, Any], root: User, with_scopes: Callable[..., Program]
) -> None:
    before = written()
    scope = OPERATIONS[name][3]
    others = call(with_scopes(*(set(SCOPES) - {scope})), name, world)
    assert (others.status_code, others.headers["Content-Type"]) == (403, "application/problem+json")
    document = others.json()
    assert document["type"] == "urn:zantara:problem:out-of-scope"
    assert document["detail"].endswith(f" lacks the scope {scope}.")
    assert written() == before
    answer = call(with_scopes(scope), name, world)
    assert answer.status_code == LET_IN.get(name, answer.status_code)
    assert answer.status_code not in (401, 403, 500)
    if name not in LET_IN:
        assert answer.status_code < 300, answer.json()


def hold(owner: User, names: set[str]) -> None:
    """Exactly these permissions."""
    rows = Permission.objects.select_related("content_type").filter(codename__in=[n.split(".")[1] for n in names])
    owner.user_permissions.set([row for row in rows if f"{row.content_type.app_label}.{row.codename}" in names])


@each
def test_what_the_owner_may_no_longer_do_his_token_may_not_either(
    name: str, world: dict[str, Any], db: None, redis_url: str
) -> None:
    scope, needed = OPERATIONS[name][3:]
    owner = User.objects.create_user("olga")
    held = {*SCOPES[scope].permissions, *needed}
    hold(owner, held)
    program = Program(token_for(User.objects.get(pk=owner.pk), scope)[1])
    before = written()
    for missing in needed[-1:]:
        hold(owner, held - {missing})
        refused = call(program, name, world)
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:zantara:problem:not-permitted")
        assert refused.json()["detail"].endswith(f"may not do this: {missing}.")
    assert written() == before
    hold(owner, held)
    let_in = call(program, name, world).status_code
    assert let_in == LET_IN.get(name, let_in)
    assert let_in not in (401, 403, 500)


def test_every_permission_that_a_scope_lists_is_asked_for(root: User) -> None:
    for scope in SCOPES.values():
        owner = User.objects.create_user(scope.name)
        hold(owner, set(scope.permissions))
        request = RequestFactory().get("/api/v1/x")
        token, text = token_for(User.objects.get(pk=owner.pk), scope.name)
        request.META["HTTP_AUTHORIZATION"] = f"Bearer {text}"
        assert ApiTokenAuth(scope.name)(request) == token
        for missing in () if scope.each_asks else scope.permissions:
            hold(owner, set(scope.permissions) - {missing})
            request = RequestFactory().get("/api/v1/x", headers={"Authorization": f"Bearer {text}"})
            with pytest.raises(NotPermitted, match=missing):
                ApiTokenAuth(scope.name)(request)


def test_shortcuts_past_stages_and_pipeline_ask_for_the_right_to_promote_fully(
    world: dict[str, Any], root: User
) -> None:
    owner = User.objects.create_user("olga")
    owner.user_permissions.add(Permission.objects.get(codename="start_deployment"))
    program = Program(token_for(owner, "deployments:write")[1])
    for shortcut in ("at_once", "skip_pipeline"):
        refused = program.post("/deployments", {"service": "shop", "version": "2.0", shortcut: True})
        assert refused.status_code == 403
        assert refused.json()["detail"].endswith("may not do this: deployments.promote_fully_deployment.")
    refused = program.post("/deployments", {"service": "shop", "version": "9", "source": "/srv/9"})
    assert refused.json()["detail"].endswith("may not do this: deployments.add_release.")
    assert Deployment.objects.count() == 1
