from __future__ import annotations

import pytest

from ratelimits.decision import Policy
from ratelimits.wording import consequence, duration_words, limit_words, parse_words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("900", 900),
        ("15m", 900),
        ("15 min", 900),
        ("15 Minutes", 900),
        ("1h", 3600),
        ("1.5h", 5400),
        ("1 h 30 min", 5400),
        ("2 days", 172800),
        (" 45s ", 45),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert parse_words(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "15x", "-5", "5 5 m m", "0.5", "1e9", "m15", "１５m ☃", "9" * 500])
def test_nonsense_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|whole number"):
        parse_words(text)


@pytest.mark.parametrize("seconds", [1, 59, 60, 90, 900, 3600, 5400, 86400, 86401, 172800, 2678400])
def test_what_a_form_shows_it_reads_back(seconds: int) -> None:
    assert parse_words(duration_words(seconds)) == seconds


def test_a_limit_is_told_in_words() -> None:
    policy = Policy(id=1, name="ceo", role="CEO", requests=1000, window_seconds=900, message="")
    assert limit_words(policy) == "1000 / 15 min"
    burst = Policy(1, "c", "CEO", 1000, 900, "", burst_requests=20, burst_window_seconds=10)
    assert limit_words(burst) == "1000 / 15 min, 20 / 10 s"
    assert limit_words(Policy(1, "c", "CEO", None, 900, "")) == "unlimited"


def test_the_consequence_names_whom_how_often_what_is_shared_and_what_happens_without_redis() -> None:
    policy = Policy(1, "ceo", "CEO", 1000, 900, "", route_prefix="/zantara.", key="user", fail_mode="closed")
    assert consequence(policy) == (
        "In any 15 min one caller in the role “CEO”, on paths that begin with /zantara., gets at most 1000 requests. "
        "One count per user, whatever his address; all callers without a user share one count. "
        "While Redis does not answer, requests are refused with 503."
    )
    shadow = Policy(1, "c", "default", 5, 60, "", enforced=False)
    assert consequence(shadow, active=False).startswith("Not active, so nothing of this happens yet. A shadow: nobody")
    assert consequence(Policy(1, "c", "default", None, 60, "", subject="alice")) == (
        "Never denied and not counted: the caller “alice”."
    )
