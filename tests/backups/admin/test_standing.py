"""What is proven of a restore point, worked out from its artifacts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backups.admin.standing import proof_cell, restore_words, standing_of
from backups.admin.words import people_words
from backups.models import Artifact

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def hours(count: float) -> datetime:
    return NOW - timedelta(hours=count)


def test_the_level_is_what_all_artifacts_reach_and_its_age_is_the_oldest() -> None:
    first = Artifact(name="a", l0_at=hours(9), l1_at=hours(8), l2_at=hours(7), l3_at=hours(6), restore_seconds=2.5)
    second = Artifact(name="b", l0_at=hours(5), l1_at=hours(4), l2_at=hours(30))
    found = standing_of([first, second])
    assert (found.level, found.at) == (2, hours(30))
    assert (found.restore_seconds, found.measured, found.artifacts) == (2.5, 1, 2)
    assert restore_words(found) == "2 s for 1 of 2"


def test_a_higher_proof_stands_for_the_lower_one_and_renews_it() -> None:
    drilled = Artifact(name="a", l0_at=hours(300), l3_at=hours(1))
    hashed = Artifact(name="b", l0_at=hours(2), l1_at=hours(2))
    found = standing_of([drilled, hashed])
    assert (found.level, found.at) == (1, hours(2))


@pytest.mark.parametrize(
    "artifacts", [[], [Artifact(name="a")], [Artifact(name="a", l3_at=hours(1)), Artifact(name="b")]]
)
def test_one_artifact_without_proof_leaves_the_whole_unproven(artifacts: list[Artifact]) -> None:
    found = standing_of(artifacts)
    assert (found.level, found.at) == (None, None)
    assert "Not proven yet" in proof_cell(found, NOW)


def test_damage_is_said_before_any_proof_and_names_the_artifact() -> None:
    found = standing_of(
        [Artifact(name="logs", l3_at=hours(1), damaged_at=hours(0.5)), Artifact(name="b", l3_at=hours(1))]
    )
    assert (found.level, found.damaged) == (None, ("logs",))
    assert "Damaged" in proof_cell(found, NOW)
    assert "logs" in proof_cell(found, NOW)


def test_a_proof_older_than_a_week_is_marked_as_old() -> None:
    fresh = proof_cell(standing_of([Artifact(name="a", l3_at=hours(24 * 7))]), NOW)
    old = proof_cell(standing_of([Artifact(name="a", l3_at=hours(24 * 7 + 1))]), NOW)
    assert "old" not in fresh
    assert "7 d ago" in old
    assert ">old<" in old


def test_a_measured_restore_time_is_the_sum() -> None:
    found = standing_of([Artifact(name="a", restore_seconds=90), Artifact(name="b", restore_seconds=45)])
    assert restore_words(found) == "2 min 15 s"
    assert restore_words(standing_of([Artifact(name="a")])) == "not measured"


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"rows": 53412, "tables": 31}, "31 tables, 53\u202f412 rows"),
        ({"files": 1, "bytes": 12_000}, "1 file"),
        ({"large_objects": 2, "stream_seconds": 3, "is_odd": True}, "2 large objects"),
        ({}, ""),
    ],
)
def test_what_is_in_an_artifact_is_told_in_numbers_for_people(summary: dict[str, Any], words: str) -> None:
    assert people_words(summary) == words
