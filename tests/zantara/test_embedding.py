"""Text to vector: the same everywhere, of length 1, and near where spelling is near."""

from __future__ import annotations

import math
import subprocess
import sys
from operator import mul

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.zantara.embedding import DIMENSIONS, embed
from examples.zantara.texts import TEXTS


def cosine(one: list[float], other: list[float]) -> float:
    return sum(map(mul, one, other))


def test_the_same_text_gives_the_same_vector_in_another_process() -> None:
    program = "from examples.zantara.embedding import embed; print(embed('Roll back first.'))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(embed("Roll back first."))


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_every_text_has_a_vector_of_length_one(text: str) -> None:
    vector = embed(text)
    assert len(vector) == DIMENSIONS
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-9)


def test_case_and_compatibility_forms_do_not_matter() -> None:
    assert embed("BACKUP") == embed("backup") == embed("ｂａｃｋｕｐ")  # the last in full-width letters


def test_inflected_forms_are_nearer_than_other_words() -> None:
    question = embed("restoring backups")
    assert cosine(question, embed("restore the backup")) > 0.2 > cosine(question, embed("canary traffic"))


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("restore drill of a backup", "backups"),
        ("readiness and liveness probe", "health"),
        ("retry back-off with jitter under overload", "overload"),
        ("post-mortem without blame", "incidents"),
        ("rotate a signing key", "secrets"),
    ],
)
def test_a_question_finds_its_topic_among_the_seeded_texts(question: str, topic: str) -> None:
    vector = embed(question)
    assert max(TEXTS, key=lambda entry: cosine(vector, embed(entry[1])))[0] == topic
