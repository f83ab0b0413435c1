"""Secrets are masked however the output is cut, and nothing else is lost."""

from __future__ import annotations

import io
import itertools

from hypothesis import given
from hypothesis import strategies as st

from deployments.pipeline.masking import TAIL_BYTES, BoundedFile, Cleaner, SecretMasker, spellings

SECRETS = ("abcd", "abcdefgh", "xabc", "s e c r e t", "ßecret-ü")


def cut(text: str, places: list[int]) -> list[str]:
    marks = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(marks)]


@given(
    st.lists(st.sampled_from([*SECRETS, "abc", "efgh", "x", " ", "\n", "word", "s e c", "abcdabcd"]), max_size=12),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_no_cut_lets_a_secret_through_or_changes_what_is_said(parts: list[str], places: list[int]) -> None:
    text = "".join(parts)
    whole = SecretMasker(SECRETS).feed(text, last=True)
    masker = SecretMasker(SECRETS)
    pieces = "".join(masker.feed(piece) for piece in cut(text, places)) + masker.feed("", last=True)
    assert pieces == whole
    assert all(secret not in pieces for secret in SECRETS)


@given(st.text(alphabet="ab \nü😀", max_size=60), st.lists(st.integers(0, 200), max_size=8))
def test_what_is_no_secret_arrives_unchanged(text: str, places: list[int]) -> None:
    cleaner, data = Cleaner(["top-secret"]), text.encode()
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    said = "".join(cleaner.feed(data[a:b]) for a, b in itertools.pairwise(marks)) + cleaner.feed(b"", last=True)
    assert said == (text if text.endswith("\n") or not text else text + "\n")


def test_a_secret_is_known_in_each_of_its_spellings() -> None:
    secret = 'p"ss w/rd'
    cleaner = Cleaner([secret])
    said = cleaner.feed(f'{secret}\np%22ss%20w%2Frd\n"p\\"ss w/rd"\n'.encode(), last=True)
    assert said == '***\n***\n"***"\n'


def test_each_line_of_a_secret_of_many_lines_is_masked_alone() -> None:
    assert Cleaner(["first-line-of-it\nsecond-line-of-it"]).feed(b"> second-line-of-it\n") == "> ***\n"


def test_values_too_short_to_be_secrets_are_left_alone() -> None:
    assert spellings(["1", "on", "abc", ""]) == []
    assert Cleaner(["1"]).feed(b"11 passed\n") == "11 passed\n"


def test_a_private_key_is_masked_over_all_its_lines() -> None:
    cleaner = Cleaner([])
    key = b"before\nx -----BEGIN RSA PRIVATE KEY-----\nMIIabc\n"
    assert cleaner.feed(key) == "before\nx ***\n***\n"
    assert cleaner.feed(b"MIIdef\n-----END RSA PRIVATE KEY-----\nafter\n") == "***\n\nafter\n"


def test_patterns_of_secrets_are_masked_also_where_no_value_is_known() -> None:
    said = Cleaner([]).feed(b"Authorization: Bearer abc.def\nhttps://me:hunter22@host/x\ntoken=12345\n")
    assert said == "Authorization: Bearer ***\nhttps://me:***@host/x\ntoken=***\n"


def test_colours_and_control_characters_are_taken_out() -> None:
    assert Cleaner([]).feed(b"\x1b[31mred\x1b[0m \x1b]0;title\x07and\x00 nul\r\n\xff\n") == "red and nul\n\ufffd\n"


def test_a_line_without_an_end_is_let_through_in_pieces() -> None:
    cleaner = Cleaner([])
    said = cleaner.feed(b"word " * 10_000)
    assert 0 < len(said) <= 50_000
    assert said + cleaner.feed(b"", last=True) == "word " * 10_000 + "\n"


class Kept(io.BytesIO):
    kept = b""

    def close(self) -> None:
        self.kept = self.getvalue()


def written(texts: list[str], most: int) -> str:
    stream = Kept()
    file = BoundedFile(stream, most)
    for text in texts:
        file.write(text)
    file.close()
    return stream.kept.decode()


@given(st.lists(st.text(alphabet="aü😀\n", max_size=30), max_size=30), st.integers(0, 200))
def test_up_to_the_end_that_is_kept_nothing_is_lost(texts: list[str], most: int) -> None:
    assert written(texts, most) == "".join(texts)


def test_more_than_that_is_left_out_and_counted() -> None:
    said = written(["a" * 100, "b" * (2 * TAIL_BYTES), "the end"], 50)
    left_out = 100 + 2 * TAIL_BYTES + 7 - 50 - TAIL_BYTES
    assert said.startswith("a" * 50 + f"\n[… output truncated: {left_out} bytes were left out here …]\n")
    assert said.endswith("bthe end")
    assert len(said.encode()) < 50 + TAIL_BYTES + 100
