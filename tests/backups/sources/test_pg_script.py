"""Rows are counted right however the script is cut, and whatever is in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.sources.pg_script import ScriptReader

SCRIPT = (
    b"SET row_security = off;\n\n--\n-- Data for Name: people; Type: TABLE DATA\n--\n\n"
    b"COPY public.people (id, name) FROM stdin;\n1\tCOPY public.other (x) FROM stdin;\n2\t\\\\.\n3\t\\\\N\n\\.\n\n\n"
    b"COPY public.empty  FROM stdin;\n\\.\n\n"
    b'COPY "Odd ""schema"""."with (dots).\nand a newline" ("a b") FROM stdin;\n\n\n\\.\n\n'
    b"SELECT pg_catalog.lo_open('16400', 131072);\nSELECT pg_catalog.lowrite(0, '\\x00');\n"
    b"SELECT pg_catalog.setval('public.people_id_seq', 3, true);\n"
)
ROWS = {("public", "people"): 3, ("public", "empty"): 0, ('Odd "schema"', "with (dots).\nand a newline"): 2}


@settings(max_examples=80, deadline=None)
@given(st.integers(1, len(SCRIPT)))
def test_rows_are_counted_however_the_script_is_cut(size: int) -> None:
    reader = ScriptReader()
    reader.read(SCRIPT[start : start + size] for start in range(0, len(SCRIPT), size))
    assert reader.rows == ROWS
    assert reader.large_objects == 1
    assert reader.is_whole


@pytest.mark.parametrize("row", [b"", b"x" * 300_000, b"\\\\."])
def test_a_row_may_be_nothing_or_longer_than_every_chunk(row: bytes) -> None:
    script = b"COPY public.t (a) FROM stdin;\n" + 3 * (row + b"\n") + b"\\.\n"
    reader = ScriptReader()
    reader.read(script[start : start + 1000] for start in range(0, len(script), 1000))
    assert reader.rows == {("public", "t"): 3}
    assert reader.is_whole


def test_a_script_that_ends_among_rows_is_not_whole() -> None:
    reader = ScriptReader()
    reader.read([SCRIPT[: SCRIPT.index(b"3\t")]])
    assert reader.rows == {("public", "people"): 2}
    assert not reader.is_whole
