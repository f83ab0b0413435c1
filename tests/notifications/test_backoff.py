from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.notifications.backoff import DELAYS_SECONDS, JITTER, MOST_ATTEMPTS, next_attempt_at

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


def test_the_first_failure_is_tried_again_after_ten_seconds_and_the_second_after_thirty() -> None:
    assert next_attempt_at(1, NOW, 0.0) == NOW + timedelta(seconds=10)
    assert next_attempt_at(2, NOW, 0.0) == NOW + timedelta(seconds=30)


def test_after_a_day_of_failures_it_is_given_up() -> None:
    assert MOST_ATTEMPTS == 29
    assert next_attempt_at(MOST_ATTEMPTS, NOW, 0.5) is None
    assert 85_000 < sum(DELAYS_SECONDS) < 90_000


@given(st.integers(1, MOST_ATTEMPTS - 1), st.floats(0, 1))
def test_the_dice_make_it_later_by_at_most_a_quarter_and_never_sooner(attempts: int, fraction: float) -> None:
    at = next_attempt_at(attempts, NOW, fraction)
    assert at is not None
    delay = (at - NOW).total_seconds()
    assert DELAYS_SECONDS[attempts - 1] <= delay <= DELAYS_SECONDS[attempts - 1] * (1 + JITTER) + 1e-6
