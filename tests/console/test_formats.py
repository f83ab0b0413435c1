"""How values are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.console.formats import (
    TONE_ICONS,
    badge,
    human_bytes,
    human_seconds,
    rate_text,
    relative_text,
    since,
    with_code,
)

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "1 ms"),
        (0.25, "250 ms"),
        (1, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (900, "15 min"),
        (3600, "1 h"),
        (3605, "1 h"),
        (5400, "1 h 30 min"),
        (86400, "1 d"),
        (86400 + 7200, "1 d 2 h"),
        (31 * 86400, "31 d"),
        (-90, "-1 min 30 s"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (150 * 1024, "150 KiB"),
        (20 * 1024**3, "20 GiB"),
        (5000 * 1024**5, "5000 PiB"),
        (-2048, "-2 KiB"),
    ],
)
def test_a_size_is_shown_in_binary_units(size: float, text: str) -> None:
    assert human_bytes(size) == text


def test_a_rate_reads_as_people_say_it() -> None:
    assert rate_text(1000, 900) == "1000 / 15 min"
    assert rate_text(None, 900) == "unlimited"


@pytest.mark.parametrize(
    ("offset_seconds", "text"),
    [
        (0, "just now"),
        (-0.5, "just now"),
        (-1, "1 s ago"),
        (-200, "3 min ago"),
        (-90000, "1 d ago"),
        (7260, "in 2 h"),
    ],
)
def test_a_moment_is_shown_relative_to_now(offset_seconds: float, text: str) -> None:
    assert relative_text(NOW + timedelta(seconds=offset_seconds), NOW) == text


def test_a_relative_moment_carries_the_absolute_one_in_utc_whatever_its_zone() -> None:
    summer = datetime.fromisoformat("2026-11-23T13:57:00+02:00")
    assert since(summer, now=NOW) == (
        '<time class="zt-since" datetime="2026-11-23T11:57:00+00:00" title="2026-11-23 11:57:00 UTC">3 min ago</time>'
    )
    assert since(None) == '<span class="zt-muted-text">never</span>'


def test_every_tone_has_an_icon_of_its_own_so_that_no_state_is_told_by_colour_alone() -> None:
    assert len(set(TONE_ICONS.values())) == len(TONE_ICONS)
    shown = badge("late", "warn")
    assert ">warning</span>" in shown
    assert ">late</span>" in shown


def test_a_badge_escapes_its_text_and_refuses_an_unknown_tone() -> None:
    assert "&lt;script&gt;" in badge("<script>", "bad")
    with pytest.raises(ValueError, match="no tone 'red'"):
        badge("x", "red")  # type: ignore[arg-type]


def test_words_in_backquotes_are_shown_as_code_and_all_else_is_escaped() -> None:
    assert with_code("Run `manage.py up` <b>") == "Run <code>manage.py up</code> &lt;b&gt;"
    assert with_code("`<i>`") == "<code>&lt;i&gt;</code>"
    assert with_code("an odd ` one") == "an odd ` one"
