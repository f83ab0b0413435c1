"""Header fields against a parser written from RFC 9651 alone, and decision ids."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.kernel.errors import Refused
from ratelimits.headers import decision_id, explain, header_fields
from ratelimits.limiter import Decision, Window
from ratelimits.limiter.keys import caller_text
from tests.ratelimits.limiting import ANYBODY, config, policy

CONFIG = config("redis://unused")
CALLER = bytes(range(12))


def parse_list(text: str) -> list[tuple[str, dict[str, int]]]:
    """A List of Strings with Integer parameters in canonical form (RFC 9651, 4.1): no other byte is taken."""
    members, position = [], 0
    string = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
    parameter = re.compile(r";([a-z*][a-z0-9_.*-]*)=(0|-?[1-9][0-9]{0,14})")
    while True:
        head = string.match(text, position)
        assert head, f"no string at {position} of {text!r}"
        position, parameters = head.end(), {}
        while found := parameter.match(text, position):
            assert found[1] not in parameters
            parameters[found[1]] = int(found[2])
            position = found.end()
        members.append((re.sub(r"\\(.)", r"\1", head[1]), parameters))
        if position == len(text):
            return members
        assert text[position : position + 2] == ", ", f"not canonical at {position} of {text!r}"
        position += 2


def decision(*windows: Window, **changes: Any) -> Decision:
    values: dict[str, Any] = {
        "allowed": all(not w.wait_us for w in windows),
        "source": "store",
        "version": 17,
        "asker": ANYBODY,
        "policy": POLICY,
        "windows": windows,
        "caller": CALLER,
    }
    return Decision(**values | changes)


POLICY = policy(100, 900, id=4, name="ceo", burst_requests=10, burst_window_seconds=5)
MAIN = Window(POLICY, 0, 100, 900, used=40, reset_us=600_000_001)
BURST = Window(POLICY, 1, 10, 5, used=10, reset_us=1_200_000)


def test_the_fields_of_draft_10_to_the_byte() -> None:
    fields = header_fields(decision(MAIN, BURST), ["draft-10"])
    assert fields == {
        "Zantara-Policy-Version": "17",
        "RateLimit-Policy": '"ceo";q=100;w=900, "ceo-burst";q=10;w=5',
        "RateLimit": '"ceo";r=60;t=601, "ceo-burst";r=0;t=2',
    }


def test_the_fields_of_draft_6_and_the_legacy_ones_speak_of_the_tightest_window() -> None:
    assert header_fields(decision(MAIN, BURST), ["draft-6", "legacy"]) == {
        "Zantara-Policy-Version": "17",
        "RateLimit-Limit": "10",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "2",
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "2",
    }


def test_a_denial_points_nowhere_beyond_its_retry_after() -> None:
    denied = decision(MAIN, replace(BURST, wait_us=1_000_001))
    fields = header_fields(denied, ["draft-10", "draft-6"])
    assert fields["Retry-After"] == "2"
    assert parse_list(fields["RateLimit"]) == [("ceo", {"r": 60}), ("ceo-burst", {"r": 0, "t": 2})]
    assert fields["RateLimit-Reset"] == "2"


def test_retry_after_is_rounded_up_and_is_that_of_the_longest_wait() -> None:
    for wait, seconds in ((1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (899_000_001, 900)):
        denied = decision(replace(MAIN, wait_us=wait), replace(BURST, wait_us=1))
        assert header_fields(denied, [])["Retry-After"] == str(seconds)


def test_what_was_not_counted_has_no_fields() -> None:
    assert header_fields(decision(source="open", allowed=True), ["draft-10"]) == {}


@given(
    st.lists(
        st.tuples(
            st.integers(1, 10**7),
            st.integers(1, 2_678_400),
            st.integers(0, 2 * 10**7),
            st.integers(0, 3 * 10**12),
            st.booleans(),
        ),
        min_size=1,
        max_size=2,
    )
)
def test_every_decision_has_canonical_fields_that_agree_with_each_other(rows: list[Any]) -> None:
    windows = [
        Window(POLICY, number, limit, seconds, used=used, reset_us=reset, wait_us=reset + 1 if denied else 0)
        for number, (limit, seconds, used, reset, denied) in enumerate(rows)
    ]
    fields = header_fields(decision(*windows), ["draft-10", "draft-6"])
    quotas, lefts = parse_list(fields["RateLimit-Policy"]), parse_list(fields["RateLimit"])
    assert [name for name, _ in quotas] == [name for name, _ in lefts] == ["ceo", "ceo-burst"][: len(windows)]
    for window, (_, quota), (_, left) in zip(windows, quotas, lefts, strict=True):
        assert quota == {"q": window.limit, "w": window.seconds}
        assert 0 <= left["r"] <= window.limit
        assert not (window.wait_us and left["r"])
        if "Retry-After" in fields:
            assert left.get("t", 0) <= int(fields["Retry-After"])
            assert "t" in left or not window.wait_us
        else:
            assert left["t"] * 1_000_000 >= window.reset_us


def test_the_test_parser_takes_only_canonical_bytes() -> None:
    assert parse_list('"a";q=1;w=2, "b"') == [("a", {"q": 1, "w": 2}), ("b", {})]
    for text in ("", "a", '"a"; q=1', '"a";q=01', '"a","b"', '"a" ,"b"', '"a";Q=1', '"a", ', '"a";q=1.0', '"a";q=-0'):
        with pytest.raises(AssertionError):
            parse_list(text)


# --- decision ids --------------------------------------------------------------------------------

DENIED = decision(replace(MAIN, used=100, wait_us=5), replace(BURST, wait_us=900))


def test_a_decision_id_tells_exactly_what_the_limiter_knew() -> None:
    found = explain(decision_id(DENIED, CONFIG, now=1_790_000_000.1234), CONFIG)
    assert found.policy_id == 4
    assert found.policy_version == 17
    assert (found.limit, found.window_seconds, found.used, found.is_burst) == (10, 5, 10, True)  # the longest wait
    assert found.denied_at == datetime.fromtimestamp(1_790_000_000.123, UTC)
    assert found.key_hash == caller_text(CALLER)


def test_a_built_in_policys_id_and_a_huge_use_are_carried_too() -> None:
    window = replace(MAIN, policy=replace(POLICY, id=-5), used=10**12, wait_us=1)
    found = explain(decision_id(decision(window, version=2**60), CONFIG), CONFIG)
    assert (found.policy_id, found.policy_version, found.used, found.is_burst) == (-5, 2**60, 2**32 - 1, False)


def test_every_single_flipped_bit_of_a_decision_id_is_refused() -> None:
    text = decision_id(DENIED, CONFIG)
    for position, character in enumerate(text):
        for bit in range(8):
            forged = text[:position] + chr(ord(character) ^ (1 << bit)) + text[position + 1 :]
            with pytest.raises(Refused):
                explain(forged, CONFIG)


@pytest.mark.parametrize("cut", [0, 1, 4, 40, 87])
def test_a_truncated_decision_id_is_refused(cut: int) -> None:
    text = decision_id(DENIED, CONFIG)
    assert len(text) == 88
    with pytest.raises(Refused, match="not a decision id"):
        explain(text[:cut], CONFIG)


def test_another_installations_decision_id_is_refused() -> None:
    with pytest.raises(Refused, match="not made by this installation"):
        explain(decision_id(DENIED, CONFIG), config("redis://unused", secret=b"another"))


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_no_text_breaks_the_reader_of_decision_ids(text: str) -> None:
    with pytest.raises(Refused):
        explain(text, CONFIG)


def test_a_decision_id_survives_being_pasted_with_blanks_around_it() -> None:
    assert explain(f"  {decision_id(DENIED, CONFIG)}\n", CONFIG).policy_id == 4


def test_keys_and_signatures_are_made_with_different_keys() -> None:
    assert CONFIG.derived_key("caller") != CONFIG.derived_key("decision")
