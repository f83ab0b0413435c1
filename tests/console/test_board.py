"""The board of probe answers: nobody waits for a probe, and what is broken comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from controlplane.console.pages.board import FRESH_SECONDS, SHOWN_SECONDS, Board
from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult

PASS = ProbeResult("pass", "well")


def probe(name: str) -> Probe:
    return Probe(name, name.upper(), lambda: PASS)


def answers(statuses: Mapping[str, str]) -> dict[str, ProbeResult]:
    return {name: ProbeResult(status, f"{name} is {status}") for name, status in statuses.items()}  # type: ignore[arg-type]


def test_open_problems_come_first_and_equal_ones_keep_their_order() -> None:
    said = answers({"a": "pass", "b": "warn", "c": "unknown", "d": "fail", "e": "pass"})
    board = Board([probe(name) for name in "abcde"], lambda asked: said, patience_seconds=5)
    assert [line.probe.name for line in board.lines()] == ["d", "c", "b", "a", "e"]


def test_a_probe_that_hangs_delays_nobody_and_is_asked_once() -> None:
    entered, release, calls = threading.Event(), threading.Event(), []

    def ask(asked: list[Probe]) -> Mapping[str, ProbeResult]:
        calls.append(len(asked))
        entered.set()
        assert release.wait(120)
        return {"a": PASS}

    board = Board([probe("a")], ask, patience_seconds=0.02)
    for _ in range(3):
        (line,) = board.lines()
        assert line.result.summary == "Not asked yet."
        assert line.asked_at is None
    assert entered.wait(60)
    assert calls == [1]
    release.set()
    deadline = time.monotonic() + 60
    while board.lines()[0].result is not PASS:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_answers_are_reused_while_fresh_and_asked_for_again_when_old(monkeypatch) -> None:
    now, calls = [1000.0], []
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def ask(asked: list[Probe]) -> Mapping[str, ProbeResult]:
        calls.append(1)
        return {"a": PASS}

    board = Board([probe("a")], ask, patience_seconds=5)
    board.lines()
    board.lines()
    assert len(calls) == 1
    now[0] += SHOWN_SECONDS
    board.lines()
    assert len(calls) == 2


def test_answers_that_are_no_longer_fresh_are_shown_at_once_while_newer_ones_are_fetched(monkeypatch) -> None:
    now, release, said = [1000.0], threading.Event(), {"a": PASS}
    release.set()
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def ask(asked: list[Probe]) -> Mapping[str, ProbeResult]:
        assert release.wait(60)
        return dict(said)

    board = Board([probe("a")], ask, patience_seconds=60)
    board.lines()
    release.clear()
    said["a"] = ProbeResult("fail", "gone")
    now[0] += FRESH_SECONDS
    assert board.lines()[0].result is PASS  # nobody waited: the asking has not ended
    release.set()
    deadline = time.monotonic() + 5
    while board.lines()[0].result is PASS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert board.lines()[0].result.summary == "gone"


def test_the_last_good_answer_is_remembered_while_a_probe_fails(monkeypatch) -> None:
    now, said = [1000.0], {"a": PASS}
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    board = Board([probe("a")], lambda asked: dict(said), patience_seconds=5)
    (good,) = board.lines()
    assert good.last_passed_at == good.asked_at
    said["a"] = ProbeResult("fail", "gone")
    now[0] += 10
    (bad,) = board.lines()
    assert bad.result.summary == "gone"
    assert bad.last_passed_at == good.asked_at
    assert bad.asked_at is not None
    assert bad.asked_at >= good.asked_at  # type: ignore[operator]


def test_a_crash_of_the_asking_is_shown_as_not_known_and_the_board_goes_on(monkeypatch) -> None:
    now, crash = [1000.0], [True]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def ask(asked: list[Probe]) -> Mapping[str, ProbeResult]:
        if crash[0]:
            raise RuntimeError("boom")
        return {"a": PASS}

    board = Board([probe("a")], ask, patience_seconds=5)
    (line,) = board.lines()
    assert (line.result.status, line.result.summary) == ("unknown", "The probes could not be run.")
    crash[0] = False
    now[0] += 10
    assert board.lines()[0].result is PASS
