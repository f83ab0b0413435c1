from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimits.decision import key_material
from ratelimits.limiter import keys

KEY = b"k" * 32
EXPRESSIONS = ("ip:user", "user", "ip", "user|ip")


def test_every_key_lies_in_one_slot_of_a_cluster() -> None:
    names = [keys.POLICY_SET, keys.counter(7, 1, "abc"), keys.usage(7)]
    assert names == ["{zantara-limits}:set", "{zantara-limits}:c:7:1:abc", "{zantara-limits}:u:7"]


def test_a_caller_is_sixteen_characters_that_depend_on_the_secret() -> None:
    one, other = keys.caller_hash("alice", KEY), keys.caller_hash("alice", b"j" * 32)
    assert one != other
    assert len(keys.caller_text(one)) == 16
    assert keys.caller_hash("alice", KEY) == one


def test_a_subject_with_a_lone_surrogate_is_hashed_all_the_same() -> None:
    assert len(keys.caller_hash("\ud800", KEY)) == keys.CALLER_BYTES


@pytest.mark.parametrize(
    ("expression", "same_user_other_address", "other_user_same_address"),
    [("ip:user", False, False), ("user", True, False), ("ip", False, True), ("user|ip", True, False)],
)
def test_who_shares_a_count_is_what_the_expression_says(
    expression: str, same_user_other_address: bool, other_user_same_address: bool
) -> None:
    def material(subject: str, address: str) -> str:
        return key_material(expression, subject=subject, address=address)  # type: ignore[arg-type]

    alice = material("alice", "192.0.2.1")
    assert (material("alice", "192.0.2.2") == alice) is same_user_other_address
    assert (material("bob", "192.0.2.1") == alice) is other_user_same_address


@given(
    st.sampled_from(EXPRESSIONS),
    st.tuples(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8), st.ip_addresses().map(str)),
    st.tuples(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8), st.ip_addresses().map(str)),
)
def test_two_callers_share_a_bucket_only_where_the_expression_says_so(
    expression: str, one: tuple[str, str], other: tuple[str, str]
) -> None:
    identity = {
        "ip:user": lambda subject, address: (subject, address),
        "user": lambda subject, address: subject,
        "ip": lambda subject, address: address,
        "user|ip": lambda subject, address: (subject, "" if subject else address),
    }[expression]
    same = key_material(expression, subject=one[0], address=one[1]) == key_material(  # type: ignore[arg-type]
        expression, subject=other[0], address=other[1]
    )
    assert same is (identity(*one) == identity(*other))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_user_who_is_named_like_an_address_never_shares_its_bucket(expression: str) -> None:
    anonymous = key_material(expression, subject="", address="10.0.0.1")  # type: ignore[arg-type]
    named = key_material(expression, subject="10.0.0.1", address="10.0.0.1")  # type: ignore[arg-type]
    assert (anonymous == named) is (expression == "ip")
