"""The controllers as functions of what they see, and the classes' shares."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimits.shedding import controller
from ratelimits.shedding.admission import Admission
from ratelimits.shedding.controller import Bound, Seen, caps, make
from ratelimits.shedding.policy import BUILT_IN, Rank

THREADS = 8
#: A view that computes for 10 ms and one that waits for 50 ms, with everything in hand that can be.
COMPUTING = Seen(lag=0.05, mean=6.5, most=8, arrived=90, service=0.07, cpu=0.01)
WAITING = Seen(lag=0.004, mean=7.8, most=8, arrived=160, service=0.05, cpu=0.001)
CALM = Seen(lag=0.002, mean=2.0, most=4, arrived=40, service=0.05, cpu=0.001)

moments = st.builds(
    Seen,
    lag=st.floats(0, 1),
    wait=st.none() | st.floats(0, 5),
    mean=st.floats(0, 8),
    most=st.integers(0, 8),
    arrived=st.floats(0, 5000),
    service=st.floats(0, 5),
    slow=st.floats(0, 5),
    cpu=st.floats(0, 1),
    connections=st.none() | st.integers(0, 5000),
)


def after(kind: str, *steps: tuple[Seen, int]) -> Bound:
    made, bound = make(kind, THREADS), Bound(THREADS, pressed=False)
    for seen, times in steps:
        for _ in range(times):
            bound = made.step(seen, BUILT_IN)
    return bound


@pytest.mark.parametrize("kind", [kind for kind in controller.KINDS if kind != "off"])
@given(st.lists(moments, max_size=30))
def test_a_bound_stays_between_its_least_and_the_threads(kind: str, history: list[Seen]) -> None:
    made = make(kind, THREADS)
    for seen in history:
        assert controller.LEAST <= made.step(seen, BUILT_IN).limit <= THREADS


@given(st.lists(moments, min_size=1, max_size=30))
def test_the_top_class_has_its_guaranteed_share_whatever_happens(history: list[Seen]) -> None:
    made = make("adaptive", THREADS)
    for seen in history:
        held = caps(made.step(seen, BUILT_IN), BUILT_IN, THREADS)
        assert held.top >= 0.875 * THREADS
        assert 1 <= held.low <= held.below


def test_a_crowd_at_the_door_is_no_overload_and_five_steps_of_it_are_where_requests_compute() -> None:
    assert after("adaptive", (COMPUTING, 4)) == Bound(8, pressed=False)
    assert after("adaptive", (COMPUTING, 5)).pressed
    assert after("adaptive", (COMPUTING, 4), (CALM, 2), (COMPUTING, 4)) == Bound(8, pressed=False)


def test_a_full_house_alone_must_last_longer_and_one_late_moment_then_settles_it() -> None:
    assert after("adaptive", (WAITING, 6)) == Bound(8, pressed=False)
    assert after("adaptive", (WAITING, 7)).pressed
    assert after("adaptive", (WAITING, 5), (COMPUTING, 1)).pressed


def test_a_full_house_before_which_nobody_stands_must_last_longest() -> None:
    seen_alone = replace(WAITING, connections=30)
    assert after("adaptive", (seen_alone, 19)) == Bound(8, pressed=False)
    assert after("adaptive", (seen_alone, 20)).pressed
    assert after("adaptive", (replace(WAITING, connections=2), 7)).pressed  # which several callers share


def test_a_queue_outside_shows_in_the_connections_on_a_machine_that_does_other_work_as_well() -> None:
    disturbed = replace(WAITING, mean=5.0, connections=80)
    assert after("adaptive", (disturbed, 4)) == Bound(8, pressed=False)
    assert after("adaptive", (disturbed, 5)).pressed
    assert after("adaptive", (replace(disturbed, connections=60), 100)) == Bound(8, pressed=False)
    assert after("adaptive", (replace(disturbed, connections=None), 100)) == Bound(8, pressed=False)


def test_a_queue_that_stays_although_the_low_classes_make_room_leaves_more_threads_to_refuse() -> None:
    outside = (replace(WAITING, mean=7.0, arrived=400, connections=80), 4 + 12)
    gone = (replace(WAITING, mean=5.0, arrived=400, connections=20), 4)
    assert after("adaptive", (outside[0], 4 + 11)).limit == 7
    assert after("adaptive", outside).limit == pytest.approx(8 * 0.85)
    assert after("adaptive", (outside[0], 60)).limit == 8 / 4
    assert after("adaptive", (outside[0], 60), gone).limit == 3


def test_the_thread_that_refuses_serves_too_in_as_many_steps_as_leave_the_queue_short() -> None:
    def limits(connections: int | None, steps: int) -> list[float]:
        seen = replace(WAITING, arrived=400, connections=connections)
        return [made.step(seen, BUILT_IN).limit for _ in range(steps)]

    made = make("adaptive", THREADS)
    limits(None, 30)
    assert set(limits(None, 30)) == {7}  # nobody can tell how many stand outside
    assert set(limits(20, 5)) == {7}
    limits(20, 10)
    assert limits(20, 100).count(8) == 40
    assert set(limits(24, 30)) == {7}


def test_connections_that_callers_merely_keep_are_no_queue() -> None:
    quiet = (replace(CALM, connections=500), 300)
    busy = replace(WAITING, mean=7.0)
    assert after("adaptive", quiet, (replace(busy, connections=550), 100)) == Bound(8, pressed=False)
    assert after("adaptive", quiet, (replace(busy, connections=600), 5)).pressed
    fewer = (replace(busy, connections=100), 1)
    assert after("adaptive", quiet, fewer, (replace(busy, connections=170), 5)).pressed


def test_with_callers_outside_and_a_busy_interpreter_few_in_hand_are_an_overload_too() -> None:
    """Threads that wait for the interpreter before anybody counts them: 280 callers outside, four of eight in hand."""
    outside = Seen(lag=0.01, mean=4.0, most=7, arrived=70, service=0.05, cpu=0.01, connections=282)
    assert after("adaptive", (outside, 11)).pressed
    assert after("adaptive", (outside, 11)).limit == 2  # they compute: fewer at once
    assert after("adaptive", (replace(outside, connections=20), 100)) == Bound(8, pressed=False)
    assert after("adaptive", (replace(outside, cpu=0.005), 100)) == Bound(8, pressed=False)


def test_with_callers_outside_late_threads_are_believed_however_few_are_in_hand() -> None:
    late = Seen(lag=0.03, mean=4.0, most=7, arrived=50, service=0.06, cpu=0.01, connections=100)
    assert after("adaptive", (late, 5)).pressed
    assert after("adaptive", (replace(late, connections=10), 100)) == Bound(8, pressed=False)


def test_a_single_better_moment_does_not_hide_an_overload() -> None:
    assert after("adaptive", (WAITING, 6), (CALM, 1), (WAITING, 2)) == Bound(8, pressed=False)
    assert after("adaptive", (WAITING, 6), (CALM, 1), (WAITING, 3)).pressed


def test_threads_that_wake_twice_as_late_are_believed_twice_as_soon() -> None:
    assert not after("adaptive", (replace(COMPUTING, lag=0.06), 2)).pressed
    assert after("adaptive", (replace(COMPUTING, lag=0.06), 3)).pressed


def test_a_house_that_is_nearly_full_is_not_full() -> None:
    assert after("adaptive", (replace(WAITING, mean=7.5), 100)) == Bound(8, pressed=False)


def test_an_interpreter_that_computes_all_the_time_is_full_although_few_are_in_hand() -> None:
    outside = Seen(lag=0.02, mean=3.0, most=5, arrived=90, service=0.03, cpu=0.01)
    assert after("adaptive", (outside, 20)).pressed
    assert after("adaptive", (replace(outside, arrived=70), 100)) == Bound(8, pressed=False)
    assert after("adaptive", (replace(outside, lag=0.01), 100)) == Bound(8, pressed=False)


def test_requests_that_compute_are_kept_fewer_and_those_that_wait_are_not() -> None:
    assert after("adaptive", (COMPUTING, 20)).limit == THREADS / 4
    assert after("adaptive", (WAITING, 20)).limit == THREADS - 1


def test_a_bound_that_was_cut_is_held_until_threads_wake_clearly_sooner() -> None:
    cut = (replace(COMPUTING, arrived=400), 20)
    in_between, soon = (Seen(lag=0.02, arrived=400, cpu=0.01), 20), (Seen(lag=0.009, arrived=400, cpu=0.01), 4)
    assert after("adaptive", cut, in_between).limit == 2
    assert after("adaptive", cut, soon).limit == 3


def test_the_top_class_may_fill_all_threads_until_the_house_stays_crowded_with_the_low_ones_gone() -> None:
    refusing = replace(WAITING, mean=6.9, arrived=400)
    assert after("adaptive", (WAITING, 7), (refusing, 9)) == Bound(7, pressed=True, top=8)
    crowded = after("adaptive", (WAITING, 30))
    assert crowded == Bound(7, pressed=True, top=0)
    assert caps(crowded, BUILT_IN, THREADS).top == 7
    assert after("adaptive", (WAITING, 30), (refusing, 7)).top == 0
    assert after("adaptive", (WAITING, 30), (refusing, 8)).top == 8


def test_the_top_class_that_stood_in_the_queue_is_let_in_when_the_low_ones_are_refused() -> None:
    assert after("adaptive", (COMPUTING, 5)) == Bound(2, pressed=True, top=8)
    assert caps(after("adaptive", (replace(COMPUTING, mean=7.5), 20)), BUILT_IN, THREADS).top == 7


def test_a_busy_neighbour_is_not_taken_for_an_overload_of_our_own() -> None:
    lag_alone = replace(CALM, lag=0.2, cpu=0.01)
    assert after("adaptive", (lag_alone, 50)) == Bound(8, pressed=False)


def test_queue_wait_that_a_proxy_reports_is_believed_where_nothing_else_shows() -> None:
    assert after("adaptive", (replace(CALM, wait=0.3), 5)).pressed
    assert not after("adaptive", (replace(CALM, wait=0.05), 50)).pressed


def test_an_overload_lasts_while_too_much_is_asked_for_although_little_is_in_hand() -> None:
    refusing = replace(WAITING, mean=5.0, arrived=400)  # 400/s × 50 ms = 20 for 8 threads
    assert after("adaptive", (WAITING, 7), (refusing, 100)).pressed


@pytest.mark.parametrize("flood", [COMPUTING, WAITING])
def test_it_is_over_within_two_seconds_after_the_flood(flood: Seen) -> None:
    steps = 0
    made = make("adaptive", THREADS)
    for _ in range(50):
        made.step(replace(flood, arrived=400), BUILT_IN)
    while made.step(CALM, BUILT_IN).pressed:
        steps += 1
        assert steps < 20
    assert made.step(CALM, BUILT_IN) == Bound(8, pressed=False)


def test_the_prototypes_figures_for_dispatch_lag() -> None:
    late = Seen(lag=0.026, most=8)
    assert after("lag", (late, 1)).limit == pytest.approx(8 * 0.85)
    assert after("lag", (late, 2), (Seen(lag=0.025), 1)).limit == pytest.approx(8 * 0.85**2 + 0.25)
    assert after("lag", (replace(late, most=3), 1)).limit == 8  # hardly used: nothing is learned
    assert after("lag", (late, 100)).limit == controller.LEAST


def test_queue_wait_and_gradient2_follow_their_own_signal() -> None:
    assert after("wait", (Seen(wait=0.3, most=8), 1)).limit == pytest.approx(6.8)
    assert after("wait", (Seen(wait=None, lag=1, most=8), 9)).limit == 8
    usual, slow = Seen(slow=0.05, most=8), Seen(slow=0.5, most=8)
    assert after("gradient2", (usual, 50)).limit == 8
    assert after("gradient2", (usual, 50), (slow, 20)).limit < 6
    assert after("gradient2", (usual, 50), (slow, 20), (usual, 100)).limit == 8


def test_the_classes_share_a_bound_that_is_short() -> None:
    assert caps(Bound(8, pressed=True), BUILT_IN, 8) == controller.Caps(top=8, below=6, low=4, total=8)
    assert caps(Bound(4, pressed=True), BUILT_IN, 8) == controller.Caps(top=7, below=3, low=2, total=4)
    assert caps(Bound(7, pressed=True, top=8), BUILT_IN, 8).top == 8
    assert caps(Bound(8, pressed=False), BUILT_IN, 8) == controller.Caps(8, 8, 8, 8)


def an_admission(now: list[float], held: controller.Caps) -> Admission:
    """Without its watching thread: the test steps by itself."""
    admission = Admission(8, lambda: BUILT_IN, monotonic=lambda: now[0])
    admission._start = lambda: None  # type: ignore[method-assign]
    admission.caps = held
    return admission


def test_what_nobody_uses_is_lent_as_long_as_one_place_stays_free_for_the_classes_above() -> None:
    admission = an_admission([100.0], controller.Caps(top=6, below=3, low=2, total=5))
    assert [admission.enter(Rank.LOW) for _ in range(6)] == [True] * 4 + [False] * 2
    assert admission.enter(Rank.TOP)


@given(st.lists(st.sampled_from(list(Rank)), max_size=40))
def test_the_top_class_gets_its_places_whatever_the_others_hold(callers: list[Rank]) -> None:
    admission = an_admission([100.0], controller.Caps(top=6, below=3, low=2, total=4))
    let_in = [rank for rank in callers if admission.enter(rank)]
    assert let_in.count(Rank.TOP) == min(6, callers.count(Rank.TOP))
    assert len([rank for rank in let_in if rank is not Rank.TOP]) <= 4


def test_admission_refuses_the_low_classes_first_and_gives_places_back() -> None:
    now = [100.0]
    admission = an_admission(now, controller.Caps(top=6, below=3, low=2, total=4))
    assert [admission.enter(Rank.TOP) for _ in range(2)] == [True, True]
    assert [admission.enter(Rank.LOW) for _ in range(3)] == [True, True, False]
    assert not admission.enter(Rank.MIDDLE)
    assert [admission.enter(Rank.TOP) for _ in range(5)] == [True] * 4 + [False]
    assert admission.in_hand == 8
    now[0] += 0.05
    admission.leave(Rank.LOW, 100.0, 0.01)
    assert not admission.enter(Rank.LOW)  # the whole is still over its bound
    for _ in range(6):
        admission.leave(Rank.TOP, 100.0)
    assert admission.enter(Rank.LOW)


def test_a_step_measures_what_was_in_hand_and_how_long_it_took() -> None:
    now = [100.0]
    admission = Admission(8, lambda: BUILT_IN, monotonic=lambda: now[0])
    admission._start = lambda: None  # type: ignore[method-assign]
    admission.enter(Rank.TOP, 0.25)
    admission.enter(Rank.LOW)
    now[0] += 0.05
    admission.leave(Rank.LOW, 100.0, 0.02)
    now[0] += 0.05
    admission.woke_late(0.03)
    admission.step()
    seen = admission.last_seen
    assert seen.mean == pytest.approx(1.5)
    assert (seen.most, seen.wait, seen.lag) == (2, 0.25, 0.03)
    assert seen.arrived == pytest.approx(20)
    assert (seen.service, seen.cpu) == (pytest.approx(0.05), pytest.approx(0.02))
