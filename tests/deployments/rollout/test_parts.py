"""The parts of a decision by themselves: capacity, time that is believed, and what is done to instances."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from deployments.rollout import fleet
from deployments.rollout.capacity import canary, exchange, most_instances
from deployments.rollout.credit import credit
from deployments.rollout.policy import RolloutPolicy
from deployments.rollout.types import Drain, EdgeView, Effect, Ensure, Forget, InstanceView, Stop, Undrain

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("instances", "permille", "max_surge", "wanted"),
    [(1, 100, 0, 1), (3, 100, 0, 1), (10, 100, 0, 1), (11, 100, 0, 2), (20, 100, 0, 2), (3, 500, 0, 2), (3, 1000, 0, 3),
     (20, 500, 3, 3), (0, 100, 0, 0), (5, 0, 0, 0)],
)  # fmt: skip
def test_the_canarys_capacity_is_its_share_rounded_up(
    instances: int, permille: int, max_surge: int, wanted: int
) -> None:
    assert canary(instances, permille, max_surge) == wanted


def test_no_more_than_the_surge_are_there_at_once() -> None:
    assert (most_instances(3, 0), most_instances(3, 1), most_instances(0, 0)) == (6, 4, 0)


def instance(release: str, slot: int, **columns: object) -> InstanceView:
    values = {"ready_seconds": 60.0, **columns}
    return InstanceView(f"{release}-{slot}", release, slot, **values)  # type: ignore[arg-type]


def test_with_a_small_surge_an_old_instance_is_given_up_only_for_a_ready_and_confirmed_new_one() -> None:
    old = [instance("1.0", slot) for slot in range(3)]

    begun = exchange(3, 1, 1000, ready=0, there=0, others=old, effective=0)
    assert (begun.coming, begun.going, begun.permille) == (1, 3, 0)
    ready = exchange(3, 1, 1000, ready=1, there=1, others=old, effective=0)
    assert (ready.coming, ready.going, ready.permille) == (1, 3, 333)
    confirmed = exchange(3, 1, 1000, ready=1, there=1, others=old, effective=333)
    assert (confirmed.coming, confirmed.going) == (1, 2)


def seconds_of(*ticks: tuple[float, str, float]) -> list[float]:
    """Credits of ticks at (wall seconds, machine, its steady clock)."""
    memory: dict[str, object] = {}
    found = []
    for wall, boot, steady in ticks:
        passed, memory = credit(memory, NOW + timedelta(seconds=wall), boot, steady)
        found.append(passed)
    return found


def test_time_is_credited_between_ticks_and_never_more_than_two_of_them() -> None:
    assert seconds_of((0, "a", 0), (2, "a", 2), (2, "a", 2), (602, "a", 602)) == [0, 2, 0, 4]


def test_a_clock_that_is_set_is_no_time() -> None:
    assert seconds_of((0, "a", 0), (3600, "a", 1), (3602, "a", 3), (2, "a", 5), (4, "a", 7)) == [0, 1, 2, 2, 2]


def test_two_machines_whose_clocks_differ_do_not_count_twice() -> None:
    ticks = [(0.0, "a", 0.0)]
    for number in range(1, 11):
        ticks += [(2.0 * number, "a", 2.0 * number), (2.0 * number + 30, "b", 2.0 * number)]

    assert sum(seconds_of(*ticks)) <= 24


def plan(wanted: dict[str, int], *instances: InstanceView, **edge: object) -> list[Effect]:
    view = EdgeView(**edge) if edge else EdgeView({"1.0": 1000}, True, {"1.0": 3})  # type: ignore[arg-type]
    return list(fleet.plan(wanted, instances, view, RolloutPolicy(instances=2, drain_timeout_seconds=30)))


def test_what_is_missing_is_started_in_the_lowest_free_slot() -> None:
    assert plan({"1.0": 2}, instance("1.0", 1)) == [Ensure("1.0", 0)]


def test_the_surplus_drains_and_the_one_that_is_not_ready_goes_first() -> None:
    assert plan({"1.0": 1}, instance("1.0", 0, ready_seconds=None), instance("1.0", 1)) == [Drain("1.0-0")]


def test_what_drains_is_stopped_when_nothing_is_in_flight_any_more_or_its_time_is_over() -> None:
    draining = instance("2.0", 0, draining_seconds=5.0)
    assert plan({}, draining, permille={"1.0": 1000}, active={"2.0": 1}) == []
    assert plan({}, draining, permille={"1.0": 1000}, active={"2.0": 0}) == [Stop("2.0-0")]
    assert plan({}, draining, permille={"1.0": 900, "2.0": 100}, active={"2.0": 0}) == []
    late = instance("2.0", 0, draining_seconds=30.0)
    assert plan({}, late, permille={"1.0": 1000}, active={"2.0": 1}) == [Stop("2.0-0")]


def test_what_is_wanted_again_while_it_drains_is_kept() -> None:
    assert plan({"1.0": 1}, instance("1.0", 0, draining_seconds=5.0)) == [Undrain("1.0-0")]


def test_what_has_ended_on_its_way_out_is_forgotten() -> None:
    assert plan({}, instance("1.0", 0, running=False, stopping_seconds=3.0)) == [Forget("1.0-0")]


def test_what_ended_by_itself_is_started_again_ever_later() -> None:
    assert [fleet.backoff_seconds(count) for count in (0, 1, 2, 5, 6, 60)] == [0, 2, 4, 32, 60, 60]
    ended = instance("1.0", 0, running=False, restarts=2, started_seconds=3.0)
    assert plan({"1.0": 1}, ended) == []
    ended = instance("1.0", 0, running=False, restarts=2, started_seconds=4.0)
    assert plan({"1.0": 1}, ended) == [Ensure("1.0", 0, again=True)]
