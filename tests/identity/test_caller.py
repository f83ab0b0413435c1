"""Who calls: token before session before nobody, found out once and only when asked."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, Group
from django.http import HttpRequest
from django.test import RequestFactory

from controlplane.identity import roles
from controlplane.identity.caller import (
    ANONYMOUS,
    Caller,
    acaller_of,
    arole_of,
    caller_of,
    client_of,
    is_loopback,
    role_of,
    role_of_user,
)
from controlplane.identity.roles import best_role, known_role, priorities, set_role_source
from controlplane.identity.tokens import issue
from controlplane.kernel.errors import NotAuthentic


def request(user: object = None, **meta: str) -> HttpRequest:
    made = RequestFactory().get("/x", **meta)
    if user is not None:
        made.user = user  # type: ignore[assignment]
        if not isinstance(user, Untouchable):

            async def auser() -> object:
                return user

            made.auser = auser  # type: ignore[method-assign]
    return made


class Untouchable:
    """A session user that must not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Untouchable
        raise AssertionError(f"the session was asked for {name}")


def person(django_user_model: Any, *groups: str, **fields: Any) -> Any:
    user = django_user_model.objects.create_user(username="bob", password=None, **fields)
    user.groups.set([Group.objects.get_or_create(name=name)[0] for name in groups])
    return user


def test_nobody_is_anonymous_with_the_default_role() -> None:
    assert caller_of(request()) == Caller("anonymous", "", "default", ())
    assert caller_of(request(AnonymousUser())) == ANONYMOUS
    assert role_of(request()) == "default"
    assert async_to_sync(arole_of)(request(AnonymousUser())) == "default"


def test_a_token_counts_and_the_session_is_not_even_looked_at() -> None:
    asked = request(Untouchable(), HTTP_AUTHORIZATION=f"Bearer {issue('alice', 'CEO', 60)}")
    expected = Caller("token", "alice", "CEO", ("CEO",))
    assert caller_of(asked) == expected
    assert async_to_sync(acaller_of)(asked) == expected


def test_a_bad_token_is_not_anonymous_even_where_the_middleware_is_missing() -> None:
    asked = request(AnonymousUser(), HTTP_AUTHORIZATION="Bearer junk")
    for _ in range(2):
        with pytest.raises(NotAuthentic):
            caller_of(asked)
        with pytest.raises(NotAuthentic):
            async_to_sync(acaller_of)(asked)


def test_a_token_is_verified_once_per_request(operations: list[Any]) -> None:
    asked = request(HTTP_AUTHORIZATION=f"Bearer {issue('alice', 'CEO', 60)}")
    operations.clear()
    assert [caller_of(asked), caller_of(asked), role_of(asked)] == [caller_of(asked), caller_of(asked), "CEO"]
    assert operations == [("verify", "success", "CEO")]


def test_a_tokens_unknown_role_keeps_its_name() -> None:
    asked = request(HTTP_AUTHORIZATION=f"Bearer {issue('alice', 'Partner', 60)}")
    assert (caller_of(asked).role, caller_of(asked).roles) == ("Partner", ("Partner",))


@pytest.mark.django_db
def test_a_session_user_has_the_best_role_of_his_groups_with_one_query(
    django_user_model: Any, django_assert_num_queries: Any
) -> None:
    asked = request(person(django_user_model, "External", "Viewer", "Setup Team Lead"))
    with django_assert_num_queries(1):
        caller = caller_of(asked)
        assert caller_of(asked) is caller
        assert role_of(asked) == "Setup Team Lead"
    assert (caller.kind, caller.subject, set(caller.roles)) == ("session", "bob", {"External", "Setup Team Lead"})


@pytest.mark.django_db(transaction=True)
def test_from_async_code_the_answer_is_the_same(django_user_model: Any) -> None:
    user = person(django_user_model, "External", "CEO")
    asked = request(user)
    caller = async_to_sync(acaller_of)(asked)
    assert (caller.kind, caller.subject, caller.role) == ("session", "bob", "CEO")
    assert caller_of(asked) is caller


@pytest.mark.django_db(transaction=True)
def test_from_async_code_too_the_source_of_roles_may_ask_a_database(django_user_model: Any) -> None:
    set_role_source(lambda: dict.fromkeys(Group.objects.values_list("name", flat=True), 1))
    asked = request(person(django_user_model, "Partner"))
    assert async_to_sync(arole_of)(asked) == "Partner"


@pytest.mark.django_db
def test_permission_groups_and_superusers_have_no_role_in_limits(django_user_model: Any) -> None:
    user = person(django_user_model, "Administrator", is_superuser=True, is_staff=True)
    assert caller_of(request(user)) == Caller("session", "bob", "default", ())
    assert role_of_user(user) == "default"


def test_a_user_model_without_groups_has_the_default_role() -> None:
    class Plain:
        is_authenticated = True

        def get_username(self) -> str:
            return "carol"

    assert caller_of(request(Plain())) == Caller("session", "carol", "default", ())
    assert async_to_sync(acaller_of)(request(Plain())) == Caller("session", "carol", "default", ())


@pytest.mark.django_db
def test_before_the_session_is_known_anonymous_is_not_the_last_word(django_user_model: Any) -> None:
    asked = request()
    assert caller_of(asked) == ANONYMOUS
    asked.user = person(django_user_model, "CEO")
    assert caller_of(asked).subject == "bob"


def test_the_seeds_order_holds_without_a_source() -> None:
    names = ["default", "External", "Setup Team Lead", "CEO", "AI Bridge/Tech Lead"]
    assert sorted(priorities(), key=lambda name: priorities()[name]) == names
    for position in range(1, len(names)):
        assert best_role(names[: position + 1]) == names[position]
    assert best_role(["Partner", "External"]) == "External"
    assert best_role(["Partner", "Guest"]) == "Partner"
    assert best_role([]) == "default"
    assert (known_role("CEO"), known_role("Partner"), known_role("")) == ("CEO", "default", "default")


def test_a_source_names_the_roles_and_a_broken_one_costs_nobody_his_identity(log_events: Any) -> None:
    set_role_source(lambda: {"Partner": 99, "CEO": 1})
    assert best_role(["CEO", "Partner"]) == "Partner"
    fired: list[bool] = []

    def broken() -> dict[str, int]:
        fired.append(True)
        raise ConnectionError("the source is away")

    set_role_source(broken)
    assert best_role(["External", "CEO"]) == "CEO"
    assert fired == [True]
    assert [event["event"] for event in log_events()] == ["role_source_failed"]
    set_role_source(None)
    assert priorities() is roles.SEED_PRIORITIES


def test_the_client_is_resolved_once_with_the_operators_proxies(settings: Any) -> None:
    settings.ZANTARA_TRUSTED_PROXIES = ["10.0.0.0/8", "unix"]
    asked = request(REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="127.0.0.1, 2001:db8::7")
    assert client_of(asked).address == "2001:db8::/64"
    assert client_of(asked) is client_of(asked)
    settings.ZANTARA_IPV6_PREFIX = 48
    asked = request(REMOTE_ADDR="", HTTP_X_FORWARDED_FOR="2001:db8:1:2::7")
    assert (client_of(asked).address, client_of(asked).via) == ("2001:db8:1::/48", ("unix",))
    settings.ZANTARA_TRUSTED_PROXIES = []
    assert client_of(request(REMOTE_ADDR="", HTTP_X_FORWARDED_FOR="203.0.113.9")).address == "invalid"


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, True),
        ({"REMOTE_ADDR": "::ffff:127.0.0.1"}, True),
        ({"REMOTE_ADDR": "203.0.113.9"}, False),
        ({"HTTP_X_FORWARDED_FOR": "203.0.113.9"}, False),
        ({"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, False),
        ({"HTTP_X_FORWARDED_FOR": ""}, False),
        ({"HTTP_FORWARDED": "for=127.0.0.1"}, False),
        ({"HTTP_X_REAL_IP": "127.0.0.1"}, False),
        ({"HTTP_VIA": "1.1 proxy"}, False),
    ],
)
def test_a_request_that_somebody_forwards_unasked_is_not_local(meta: dict[str, str], expected: bool) -> None:
    assert is_loopback(request(**meta)) is expected


@pytest.mark.parametrize("trusted", [["127.0.0.1"], []])
def test_a_header_that_the_server_could_not_read_makes_nobody_of_a_trusted_proxys_client(
    settings: Any, trusted: list[str]
) -> None:
    settings.ZANTARA_TRUSTED_PROXIES = trusted
    asked = request(REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="")
    assert client_of(asked).address == ("invalid" if trusted else "127.0.0.1")
    assert not is_loopback(asked)


def test_through_a_trusted_proxy_on_this_machine_only_local_callers_are_local(settings: Any) -> None:
    settings.ZANTARA_TRUSTED_PROXIES = ["127.0.0.1"]
    assert is_loopback(request(HTTP_X_FORWARDED_FOR="127.0.0.1")) is True
    assert is_loopback(request(HTTP_X_FORWARDED_FOR="203.0.113.9")) is False
    assert is_loopback(request(HTTP_X_FORWARDED_FOR="127.0.0.1, 203.0.113.9")) is False
