from __future__ import annotations

import pytest

from ratelimits.limiter.breaker import PROBE_EVERY_SECONDS, THRESHOLD, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    assert [breaker.failed(OSError()) for _ in range(THRESHOLD)] == [False, False, True]
    return breaker


def test_it_opens_at_the_third_error_in_a_row_and_says_so_once(opened: Breaker) -> None:
    assert THRESHOLD == 3
    assert opened.state == "open"
    assert not opened.admits()
    assert opened.failed(OSError()) is False


def test_an_answer_in_between_starts_the_count_again(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(5):
        breaker.failed(OSError())
        breaker.failed(OSError())
        breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.admits()


def test_one_prober_at_a_time_and_the_others_stay_out(opened: Breaker, clock: Clock) -> None:
    clock.now += PROBE_EVERY_SECONDS
    assert [opened.admits() for _ in range(3)] == [True, False, False]
    assert opened.state == "half-open"


def test_a_probe_that_fails_waits_a_whole_period_again(opened: Breaker, clock: Clock) -> None:
    clock.now += PROBE_EVERY_SECONDS
    assert opened.admits()
    opened.failed(TimeoutError())
    assert opened.state == "open"
    assert opened.last_error == "TimeoutError"
    clock.now += PROBE_EVERY_SECONDS * 0.99
    assert not opened.admits()
    clock.now += PROBE_EVERY_SECONDS * 0.02
    assert opened.admits()


def test_a_probe_that_succeeds_closes_it_for_everybody(opened: Breaker, clock: Clock) -> None:
    clock.now += PROBE_EVERY_SECONDS
    assert opened.admits()
    opened.succeeded()
    assert opened.state == "closed"
    assert all(opened.admits() for _ in range(10))


def test_a_prober_that_never_reports_is_replaced(opened: Breaker, clock: Clock) -> None:
    clock.now += PROBE_EVERY_SECONDS
    assert opened.admits()
    clock.now += PROBE_EVERY_SECONDS
    assert opened.admits()


def test_recovery_is_seen_within_a_second(opened: Breaker) -> None:
    assert PROBE_EVERY_SECONDS <= 0.5
