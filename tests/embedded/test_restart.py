"""When a dead child is started again, and when the stack gives up."""

from __future__ import annotations

import pytest

from controlplane.embedded.restart import Death, GiveUp, Restart, after_death


def short_lives(*at: float) -> list[Death]:
    return [Death(moment, lived_seconds=0.1) for moment in at]


@pytest.mark.parametrize(("deaths", "seconds"), [(1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6)])
def test_the_wait_doubles_with_each_death_in_a_row(deaths: int, seconds: float) -> None:
    assert after_death(short_lives(*range(deaths)), now=float(deaths)) == Restart(pytest.approx(seconds))


def test_the_wait_never_exceeds_five_seconds() -> None:
    deaths = short_lives(*(20.0 * n for n in range(9)))
    assert after_death(deaths, now=160.0) == Restart(5.0)


def test_a_life_of_thirty_seconds_makes_the_wait_short_again() -> None:
    deaths = [*short_lives(0, 1, 2), Death(40, lived_seconds=30.0)]
    assert after_death(deaths, now=61.5) == Restart(0.2)


def test_a_death_just_before_thirty_seconds_still_doubles_the_wait() -> None:
    assert after_death([Death(0, 0.1), Death(30, 29.9)], now=30) == Restart(0.4)


def test_five_deaths_in_a_minute_are_too_many() -> None:
    assert after_death(short_lives(0, 10, 20, 30, 59.9), now=59.9) == GiveUp(5)


def test_five_deaths_in_just_over_a_minute_are_not() -> None:
    assert after_death(short_lives(0, 15, 30, 45, 60), now=60) == Restart(pytest.approx(3.2))


def test_a_long_life_does_not_excuse_five_deaths_in_a_minute() -> None:
    deaths = [*short_lives(0, 1, 2, 3), Death(40, lived_seconds=36)]
    assert after_death(deaths, now=40) == GiveUp(5)
