"""``Idempotency-Key``: sent twice, done once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from controlplane.api.models import RememberedAnswer
from controlplane.kernel import clock
from deployments.models import Command, Deployment
from tests.deployments.factories import make_deployment, make_release, make_service

from .conftest import Program, token_for

BODY = {"service": "shop", "version": "2.0"}


@pytest.fixture
def shop(root: User) -> Any:
    service = make_service("shop")
    make_release(service, "2.0")
    return service


def test_the_same_request_acts_once_and_is_answered_twice_the_same(program: Program, shop: Any) -> None:
    first = program.post("/deployments", BODY, **{"Idempotency-Key": "run 1"})
    again = program.post("/deployments", BODY, **{"Idempotency-Key": "run 1"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.content == again.content
    assert first.headers["Location"] == again.headers["Location"] == f"/api/v1/deployments/{first.json()['name']}"
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert Deployment.objects.count() == 1


def test_another_request_under_the_key_is_refused(program: Program, shop: Any) -> None:
    program.post("/deployments", BODY, **{"Idempotency-Key": "k"})
    name = Deployment.objects.get().name
    for path, body in (
        ("/deployments", {**BODY, "reason": "other"}),
        (f"/deployments/{name}/commands", {"kind": "abort"}),
    ):
        refused = program.post(path, body, **{"Idempotency-Key": "k"})
        assert refused.status_code == 422
        assert refused.json() == {
            "type": "urn:zantara:problem:idempotency-key-reused",
            "title": "The key belongs to another request",
            "status": 422,
            "detail": "The Idempotency-Key 'k' came with another request before.",
            "remedy": "Use a new key for each request.",
        }
    assert (Deployment.objects.count(), Command.objects.count()) == (1, 0)


def test_a_key_is_its_tokens_own_and_lives_a_day(program: Program, root: User, shop: Any, time_machine: Any) -> None:
    time_machine.move_to(clock.now())
    shop.busy_policy = "wait"
    shop.save()
    for caller in (program, Program(token_for(root, "deployments:write", expires_at=clock.now() + timedelta(9))[1])):
        assert "Idempotent-Replayed" not in caller.post("/deployments", BODY, **{"Idempotency-Key": "k"}).headers
    assert Deployment.objects.count() == 2
    time_machine.shift(timedelta(hours=24, seconds=1))
    fresh = caller.post("/deployments", BODY, **{"Idempotency-Key": "k"})
    assert "Idempotent-Replayed" not in fresh.headers
    assert (Deployment.objects.count(), RememberedAnswer.objects.count()) == (3, 1)


def test_what_was_refused_leaves_no_key_since_nothing_was_done(program: Program, shop: Any) -> None:
    shop.enabled = False
    shop.save()
    refused = program.post("/deployments", BODY, **{"Idempotency-Key": "k"})
    assert (refused.status_code, refused.json()["detail"]) == (409, "shop is switched off.")
    assert RememberedAnswer.objects.count() == 0
    shop.enabled = True
    shop.save()
    assert program.post("/deployments", BODY, **{"Idempotency-Key": "k"}).status_code == 202


@pytest.mark.parametrize("key", ["", "  ", "x" * 201, "a\tb"])
def test_a_key_that_cannot_be_read_is_refused(program: Program, shop: Any, key: str) -> None:
    refused = program.post("/deployments", BODY, **{"Idempotency-Key": key})
    assert (refused.status_code, refused.json()["type"]) == (400, "urn:zantara:problem:malformed")
    assert Deployment.objects.count() == 0


def test_a_command_is_given_once(program: Program, shop: Any) -> None:
    deployment = make_deployment(shop, make_release(shop, "1.0"))
    path = f"/deployments/{deployment.name}/commands"
    for _ in range(3):
        answer = program.post(path, {"kind": "pause"}, **{"Idempotency-Key": "k"})
        assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v1/deployments/{deployment.name}")
    assert Command.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_requests_that_come_at_once_one_acts_and_all_get_its_answer(redis_url: str) -> None:
    from tests.console.people import person

    root = person("superuser")
    service = make_service("shop", busy_policy="wait")
    make_release(service, "2.0")
    text = token_for(root, "deployments:write")[1]
    start, answers = threading.Barrier(4), []

    def send(key: str) -> Callable[[], None]:
        def go() -> None:
            start.wait()
            answers.append(Program(text).post("/deployments", BODY, **{"Idempotency-Key": key}))
            connection.close()

        return go

    for number in range(5):
        answers.clear()
        threads = [threading.Thread(target=send(f"key {number}")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [202] * 4
        assert len({answer.content for answer in answers}) == 1
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
        assert Deployment.objects.count() == number + 1
