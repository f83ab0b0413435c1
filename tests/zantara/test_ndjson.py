"""Lines in and out: whatever the chunks, the same lines; whatever is wrong, its number."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.kernel.errors import Refused
from examples.zantara import ndjson
from examples.zantara.embedding import DIMENSIONS, embed
from examples.zantara.vectors import Record, pack, unpack

GOOD: dict[str, Any] = {"id": "a", "text": "words", "metadata": {"n": 1}, "embedding": embed("words")}


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=12).filter(lambda b: b"\n" not in b), max_size=8), st.integers(1, 7))
def test_lines_do_not_depend_on_how_the_body_is_cut(expected: list[bytes], size: int) -> None:
    body = io.BytesIO(b"".join(one + b"\n" for one in expected))
    assert list(ndjson.lines(lambda _: body.read(size))) == expected


def test_a_last_line_without_an_end_counts() -> None:
    assert list(ndjson.lines(io.BytesIO(b"a\nb").read)) == [b"a", b"b"]


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    read = 0

    def endless(size: int) -> bytes:
        nonlocal read
        read += size
        return b"x" * size

    with pytest.raises(Refused, match="Line 1 is longer"):
        list(ndjson.lines(endless))
    assert read <= 2 * ndjson.MOST_LINE_BYTES


def test_what_is_written_reads_back_exactly() -> None:
    first = unpack(pack(Record(id="ü😀", text="a\nb\u2028c", embedding=embed("a"), metadata={"x": True, "y": None})))
    written = ndjson.to_line(first)
    assert written.count(b"\n") == 1
    (second,) = ndjson.from_lines(iter([written]))
    assert pack(second) == pack(first)


def test_the_longest_record_that_is_accepted_fits_into_a_line() -> None:
    longest = Record(
        id="\u00e9" * 200,
        text="\U0001f600" * 4000,
        embedding=[-1.2345678901234567e-05] * DIMENSIONS,
        metadata={"m": "é" * 1000},
    )
    escaped = json.dumps(
        {"id": longest.id, "text": longest.text, "metadata": longest.metadata, "embedding": list(longest.embedding)}
    ).encode()
    assert len(escaped) < ndjson.MOST_LINE_BYTES
    assert len(list(ndjson.from_lines(iter([escaped])))) == 1


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"[" * 50_000, "nested too deeply"),
        (line(id=""), "id must be"),
        (line(id="x" * 201), "id must be"),
        (line(id="a\x00b"), "id must be"),
        (line(id=7), "id must be"),
        (line(id="\ud800"), "surrogate"),
        (line(text=" "), "text must be a text"),
        (line(text="x" * 4001), "4001 characters"),
        (line(metadata=[1]), "metadata must be an object"),
        (line(metadata={"a": {"b": 1}}), "without nested values"),
        (line(metadata={"a": "x" * 3000}), "larger than 2048 bytes"),
        (line(embedding=[0.1] * 383), "list of 384 numbers"),
        (line(embedding=["0.1"] * 384), "list of 384 numbers"),
        (line(embedding=[True] * 384), "list of 384 numbers"),
        (line(embedding=[0] * 384), "no usable direction"),
        (line(embedding=[1e300] * 384), "no usable direction"),
        (line(embedding=[10**400, *[0.1] * 383]), "no usable direction"),
        (line(embedding=[1e999] * 384), "not a JSON number"),
        (line(embedding=[float("nan")] * 384), "not a JSON number"),
        (line(extra=1), "no parameter 'extra'"),
        (b'{"id": "b", "text": "words"}', "list of 384 numbers"),
        (line(id="first"), "the id of line 1 again"),
    ],
)
def test_a_wrong_line_is_named(wrong: bytes, why: str) -> None:
    body = iter([line(id="first"), b"", wrong, line(id="last")])
    with pytest.raises(Refused, match=rf"^Line 3: .*{why}"):
        list(ndjson.from_lines(body))


def test_a_line_that_says_how_many_came_must_be_true_and_last() -> None:
    assert [record.id for record in ndjson.from_lines(iter([line(), ndjson.end_line(1)]))] == ["a"]
    for count in (0, 2):
        with pytest.raises(Refused, match=r"^Line 2: 1 records came"):
            list(ndjson.from_lines(iter([line(), ndjson.end_line(count)])))
    with pytest.raises(Refused, match=r"^Line 3 comes after the end"):
        list(ndjson.from_lines(iter([line(), ndjson.end_line(1), line(id="b")])))


def test_more_records_than_there_is_room_for_are_refused_at_the_line_that_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ndjson, "MOST_RECORDS", 2)
    with pytest.raises(Refused, match="Line 3: more than 2 records"):
        list(ndjson.from_lines(iter([line(id=name) for name in "abc"])))
