from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimits.decision import BUILT_IN, PolicySet, applicable, policy_name
from tests.ratelimits.limiting import policy


def names(role: str = "CEO", subject: str = "", path: str = "/zantara.unified") -> tuple[str | None, str | None]:
    applied = applicable(POLICIES, role=role, subject=subject, path=path)
    return (
        applied.enforced.name if applied.enforced else None,
        applied.shadow.name if applied.shadow else None,
    )


POLICIES = (
    policy(id=1, name="default"),
    policy(id=2, name="ceo", role="CEO"),
    policy(id=3, name="default-search", route_prefix="/zantara.search"),
    policy(id=4, name="ceo-search", role="CEO", route_prefix="/zantara.search"),
    policy(id=5, name="alice", subject="alice"),
    policy(None, id=6, name="robot", role="CEO", subject="robot"),
    policy(id=7, name="ceo-shadow", role="CEO", enforced=False),
    policy(id=8, name="ceo-search-shadow", role="CEO", route_prefix="/zantara.search", enforced=False),
)


@pytest.mark.parametrize(
    ("caller", "enforced", "shadow"),
    [
        ({"role": "default"}, "default", None),
        ({"role": "nobody knows it"}, "default", None),
        ({"role": "CEO"}, "ceo", "ceo-shadow"),
        ({"role": "default", "path": "/zantara.search"}, "default-search", None),
        ({"role": "CEO", "path": "/zantara.search"}, "ceo-search", "ceo-search-shadow"),
        ({"role": "CEO", "subject": "alice", "path": "/zantara.search"}, "alice", "ceo-search-shadow"),
        ({"role": "CEO", "subject": "robot"}, "robot", "ceo-shadow"),
        ({"role": "default", "subject": "robot"}, "default", None),  # another role's exception
        ({"role": "CEO", "path": "/ZANTARA.SEARCH"}, "ceo", "ceo-shadow"),
    ],
)
def test_the_most_specific_profile_wins(caller: dict[str, str], enforced: str, shadow: str | None) -> None:
    assert names(**caller) == (enforced, shadow)


def test_an_own_role_beats_a_longer_prefix_of_the_default_one() -> None:
    policies = (policy(id=1, name="d", route_prefix="/zantara."), policy(id=2, name="own", role="CEO"))
    applied = applicable(policies, role="CEO", subject="", path="/zantara.unified")
    assert applied.enforced is policies[1]


def test_of_equals_the_older_row_wins_whatever_the_order() -> None:
    twins = (policy(id=9, name="new"), policy(id=3, name="old"))
    for order in (twins, twins[::-1]):
        applied = applicable(order, role="default", subject="", path="/")
        assert applied.enforced is not None
        assert applied.enforced.name == "old"


def test_without_any_profile_nothing_applies() -> None:
    applied = applicable((), role="CEO", subject="a", path="/")
    assert applied.policies == ()


def test_the_seed_holds_until_a_set_is_published() -> None:
    limits = {p.role: (p.requests, p.window_seconds, p.message) for p in BUILT_IN.policies}
    assert limits == {
        "AI Bridge/Tech Lead": (1000, 900, "Too many requests for Tech Lead"),
        "CEO": (500, 900, "Too many requests for CEO"),
        "Setup Team Lead": (200, 900, "Too many requests for Setup Team"),
        "External": (50, 900, "Too many requests for external user"),
        "default": (100, 900, "Rate limit exceeded"),
    }
    assert BUILT_IN.version == 0


def test_a_set_survives_its_journey_to_redis_and_back() -> None:
    before = PolicySet(41, POLICIES)
    after = PolicySet.from_json(before.to_json())
    assert after == before
    assert after.digest
    assert PolicySet.from_json(after.to_json()).digest == after.digest


def test_what_a_newer_release_adds_is_passed_over() -> None:
    data = json.loads(PolicySet(3, (policy(),)).to_json())
    data["policies"][0]["penalty"] = 7
    data["policies_of_tomorrow"] = []
    assert PolicySet.from_json(json.dumps(data)).policies == (policy(),)


def test_the_digest_changes_with_the_content_and_not_with_the_version() -> None:
    def digest(version: int, requests: int) -> str:
        return PolicySet.from_json(PolicySet(version, (policy(requests),)).to_json()).digest

    assert digest(1, 5) == digest(2, 5) != digest(2, 6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"version":1}',
        '{"version":"x","policies":[]}',
        '{"version":1,"policies":[{"id":1}]}',
        '{"version":1,"policies":[7]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_policy_set_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        PolicySet.from_json(text)


@given(st.text())
def test_a_policy_name_is_a_structured_field_string_whatever_the_role(role: str) -> None:
    name = policy_name(role, row_id=12, narrowed=True)
    assert name.endswith("-12")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
