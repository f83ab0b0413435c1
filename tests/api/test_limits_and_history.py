"""Limits and the history of configuration: looked at, changed as in the admin, told who did."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from controlplane.api.changes import entries, models_with_history
from controlplane.kernel import clock
from deployments.models import LineStop
from ratelimits.models import RateLimitProfile
from ratelimits.policies import version_in_force
from tests.backups import factories
from tests.console.people import person
from tests.deployments.factories import make_service

from .conftest import Program, token_for


@pytest.fixture
def ceo(db: None) -> RateLimitProfile:
    row = RateLimitProfile(role="CEO", requests=500, window_seconds=900)
    row.save()
    return row


@pytest.mark.django_db(transaction=True)
def test_a_changed_limit_is_checked_kept_and_in_force(redis_url: str) -> None:
    root = person("superuser")
    program = Program(token_for(root, "limits:read", "limits:write")[1])
    ceo = RateLimitProfile(role="CEO", requests=500, window_seconds=900)
    ceo.save()
    answer = program.patch(f"/limits/{ceo.pk}", {"requests": 700, "reason": "the fair"})
    ceo.refresh_from_db()
    assert (answer.status_code, answer.json()["requests"], ceo.requests) == (200, 700, 700)
    assert answer.json()["in_force"] is True
    assert version_in_force() == ceo.version == answer.json()["version"]
    newest = ceo.history.first()
    assert (newest.history_user, newest.requests) == (root, 700)
    assert newest.history_change_reason.startswith("the fair (token zt_")


@pytest.mark.parametrize(
    ("body", "status"),
    [({"requests": 0}, 422), ({"requests": 10**9}, 422), ({"requests": "many"}, 422), ({"window": 3}, 422),
     ({"burst_requests": 5}, 422), ({"requests": 600, "version": 0}, 409)],
)  # fmt: skip
def test_a_bad_or_stale_change_changes_nothing(
    program: Program, ceo: RateLimitProfile, body: dict[str, Any], status: int
) -> None:
    answer = program.patch(f"/limits/{ceo.pk}", body)
    assert answer.status_code == status
    if status == 422:
        assert answer.json()["errors"][0]["where"] == f"body.{next(iter(body))}"
    else:
        assert "has been changed meanwhile" in answer.json()["detail"]
    ceo.refresh_from_db()
    assert (ceo.requests, ceo.history.count()) == (500, 1)


def test_limits_are_listed_and_looked_at(program: Program, ceo: RateLimitProfile) -> None:
    RateLimitProfile(role="default", requests=100).save()
    assert [one["role"] for one in program.get("/limits").json()["items"]] == ["default", "CEO"]
    assert [one["id"] for one in program.get("/limits?role=CEO").json()["items"]] == [ceo.pk]
    assert program.get(f"/limits/{ceo.pk}").json()["requests"] == 500
    assert program.get("/limits/999").status_code == 404


# --- history ------------------------------------------------------------------------------------------------------


def test_history_says_who_changed_what_from_what_to_what(program: Program, ceo: RateLimitProfile, root: User) -> None:
    program.patch(f"/limits/{ceo.pk}", {"requests": 700, "reason": "the fair"})
    ceo.refresh_from_db()
    ceo.delete()
    items = program.get("/history?model=ratelimits.ratelimitprofile").json()["items"]
    assert [(one["what"], one["by"], one["object"], one["object_id"]) for one in items] == [
        ("deleted", None, "CEO", items[0]["object_id"]),
        ("changed", "root", "CEO", items[0]["object_id"]),
        ("created", None, "CEO", items[0]["object_id"]),
    ]
    assert items[1]["changes"] == [{"field": "requests", "old": 500, "new": 700}]
    assert items[1]["reason"].startswith("the fair (token zt_")


def test_history_masks_what_looks_secret_and_lists_the_far_ends_of_relations(program: Program, tmp_path: Path) -> None:
    service = make_service("shop")
    service.environ = {"DB_PASSWORD": "hunter2", "MODE": "fast"}
    service.save()
    plan = factories.files_plan(tmp_path)
    other = factories.files_source(tmp_path / "more")
    plan.sources.add(other)
    answer = program.get("/history?model=deployments.service")
    assert answer.json()["items"][0]["changes"] == [
        {"field": "environ", "old": {}, "new": {"DB_PASSWORD": "***", "MODE": "fast"}}
    ]
    changed = program.get("/history?model=backups.backupplan").json()["items"][0]
    first = plan.sources.exclude(pk=other.pk).get()
    assert changed["changes"] == [{"field": "sources", "old": [str(first.pk)], "new": [str(first.pk), str(other.pk)]}]


def test_only_what_the_owner_may_see_is_told(root: User, ceo: RateLimitProfile) -> None:
    from django.contrib.auth.models import Permission

    owner = User.objects.create_user("olga")
    names = ["view_service", "view_backupplan", "view_ratelimitprofile"]
    owner.user_permissions.set(Permission.objects.filter(codename__in=names))
    program = Program(token_for(owner, "history:read")[1])
    LineStop(pk=1, stopped=True, reason="the fair").save()
    assert {one["model"] for one in program.get("/history").json()["items"]} == {"ratelimits.ratelimitprofile"}
    hidden = program.get("/history?model=deployments.linestop")
    assert hidden.status_code == 404
    assert "ratelimits.ratelimitprofile" in hidden.json()["detail"]


def test_history_comes_in_pages_that_miss_nothing_of_one_instant(program: Program, time_machine: Any) -> None:
    begun = clock.now() - timedelta(days=1)
    for number in range(7):
        if number != 4:  # the fourth and the fifth happen at once
            time_machine.move_to(begun + timedelta(minutes=number), tick=False)
        RateLimitProfile(role=f"r{number}", requests=1).save()
    time_machine.move_to(begun + timedelta(hours=1))
    seen, address = [], "/api/v1/history?limit=3"
    pages = 0
    while address:
        page = program.get(address.removeprefix("/api/v1")).json()
        seen += [one["object"] for one in page["items"]]
        address, pages = page["next"], pages + 1
    assert seen == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    assert pages == 3
    for wrong in ("x", "a~b~c", "2026-01-01~a~1"):
        assert program.get(f"/history?cursor={wrong}").status_code == 400


def test_history_takes_the_same_queries_however_long_it_is(
    db: None, ceo: RateLimitProfile, django_assert_num_queries: Any
) -> None:
    for requests in range(1, 12):
        ceo.requests = requests
        ceo.save()
    with django_assert_num_queries(2):
        found, more = entries([RateLimitProfile], limit=5)
    assert [one["changes"][0]["new"] for one in found] == [11, 10, 9, 8, 7]
    assert more is not None


def test_every_row_that_keeps_history_is_told_of() -> None:
    assert {"ratelimits.ratelimitprofile", "ratelimits.loadsheddingpolicy", "backups.backupplan",
            "backups.storagetarget", "deployments.service", "deployments.pipelinestep", "deployments.linestop",
            "notifications.channel"} <= set(models_with_history())  # fmt: skip
