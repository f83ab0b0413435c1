from __future__ import annotations

import pytest

from deployments.judge import words


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (31, 612, "5.1 %"), (4, 5488, "0.073 %"), (0, 5488, "0 %"), (5, 5, "100 %"), (0, 0, "0 %"), (1, 3, "33 %"),
        (9999, 10000, "99.99 %"), (999_999_999, 1_000_000_000, "99.99 %"), (2, 200, "1 %"),
    ],
)  # fmt: skip
def test_a_share_is_never_nothing_for_something_nor_all_for_nearly_all(part: int, whole: int, text: str) -> None:
    assert words.share(part, whole) == text


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (0.3, "1 in 1 by chance"), (4.4, "1 in 4 by chance"), (133.4, "1 in 130 by chance"),
        (12_345, "1 in 12\u202f000 by chance"), (2e9, "less than 1 in a billion by chance"),
    ],
)  # fmt: skip
def test_evidence_is_said_as_a_chance_and_never_overstated(e: float, text: str) -> None:
    assert words.chance(e) == text


def test_counts_have_their_thousands_apart_and_sentences_a_capital_and_an_end() -> None:
    assert words.count(5488) == "5\u202f488"
    assert words.of(31, 612, "requests") == "31 of 612 requests (5.1 %)"
    assert words.sentence(" release 43: out of memory") == "Release 43: out of memory."
    assert words.sentence("Why?") == "Why?"
    assert words.release("", otherwise="the old release") == "the old release"
